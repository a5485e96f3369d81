"""The bodies of a clip: `PERSONS` (which bodies share a call of the trunk), and the maximum or mean over bodies.

A trunk with BatchNorm that is called once per body normalizes each call by its own statistics in training, and by one
mixture of them in evaluation. For a norm without batch statistics loop, fold and per_person are the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.norms import BatchNorm, Norm

Trunk = Callable[[Tensor, int], Tensor]  # x_BCTV and the slot whose statistics to use -> features of B rows
Pool = Callable[[Tensor, Tensor | None], Tensor]  # features (N, M, ...), present_NM or None: all -> (N, ...)


class Persons(Protocol):
    """Compute features (N, ...) of clips x_NCTVM with present_NM, from the features of their bodies.

    `mask_max` keeps absent bodies out of `pool`, which reduces over bodies. `bodies`: number of present bodies, where
    the host knows it (`present_places`).
    """

    def __call__(  # noqa: D102
        self,
        trunk: Trunk,
        x_NCTVM: Tensor,
        present_NM: Tensor,
        mask_max: bool = False,
        pool: Pool = ...,
        bodies: int | None = None,
    ) -> Tensor: ...


def max_over_bodies(features: Tensor, present_NM: Tensor | None) -> Tensor:
    """Return the element-wise maximum over bodies of features (N, M, ...).

    Args:
        features: Features of each body.
        present_NM: Bodies that take part, or None for all. A clip without any body yields zeros.
    """
    if present_NM is None:
        return features.amax(dim=1)
    best = features.masked_fill(~_broadcast(present_NM, features), float("-inf")).amax(dim=1)
    return best.masked_fill(~_broadcast(present_NM.any(dim=1), best), 0.0)


def mean_over_bodies(features: Tensor, present_NM: Tensor | None) -> Tensor:
    """Return the mean over bodies of features (N, M, ...).

    Args:
        features: Features of each body.
        present_NM: Bodies that take part, or None for all. A clip without any body yields zeros.
    """
    if present_NM is None:
        return features.mean(dim=1)
    total = features.masked_fill(~_broadcast(present_NM, features), 0.0).sum(dim=1)
    return total / _broadcast(present_NM.sum(dim=1).clamp(min=1), total)


def _broadcast(flag: Tensor, x: Tensor) -> Tensor:
    return flag.reshape(*flag.shape, *[1] * (x.dim() - flag.dim()))


def loop(
    trunk: Trunk,
    x_NCTVM: Tensor,
    present_NM: Tensor,
    mask_max: bool = False,
    pool: Pool = max_over_bodies,
    bodies: int | None = None,
) -> Tensor:
    """Call the same layers once per body slot."""
    features = [trunk(x_NCTVM[..., slot], 0) for slot in range(x_NCTVM.shape[-1])]
    return pool(torch.stack(features, dim=1), present_NM if mask_max else None)


def fold(
    trunk: Trunk,
    x_NCTVM: Tensor,
    present_NM: Tensor,
    mask_max: bool = False,
    pool: Pool = max_over_bodies,
    bodies: int | None = None,
) -> Tensor:
    """Call the layers once over all N*M body slots, absent bodies included."""
    x_BCTV = x_NCTVM.movedim(-1, 1).flatten(0, 1)
    return pool(trunk(x_BCTV, 0).unflatten(0, present_NM.shape), present_NM if mask_max else None)


def masked(
    trunk: Trunk,
    x_NCTVM: Tensor,
    present_NM: Tensor,
    mask_max: bool = True,
    pool: Pool = max_over_bodies,
    bodies: int | None = None,
) -> Tensor:
    """Call the layers once over the bodies that are present, which alone enter the pool.

    Absent bodies never reach the trunk: so they enter the statistics of no norm, and cost no time.
    """
    present = present_places(present_NM, bodies)
    features = trunk(x_NCTVM.movedim(-1, 1)[present], 0)
    full = features.new_zeros(*present_NM.shape, *features.shape[1:])
    return pool(full.index_put(present, features), present_NM)


def present_places(present_NM: Tensor, bodies: int | None = None) -> tuple[Tensor, Tensor]:
    """Return clip and slot of each present body, (B,) each, clip by clip.

    Args:
        present_NM: Bodies that are present.
        bodies: Their number B. None: ask the device, and wait for it.
    """
    if bodies is None:
        clip_B, slot_B = present_NM.nonzero(as_tuple=True)
        return clip_B, slot_B
    # A stable sort puts the present ones first, in their order.
    place_B = present_NM.flatten().argsort(descending=True, stable=True)[:bodies]
    slots = present_NM.shape[1]
    return place_B.div(slots, rounding_mode="floor"), place_B % slots


def per_person(
    trunk: Trunk,
    x_NCTVM: Tensor,
    present_NM: Tensor,
    mask_max: bool = False,
    pool: Pool = max_over_bodies,
    bodies: int | None = None,
) -> Tensor:
    """Call the layers once per body slot, each slot with its own statistics.

    After Chang et al. 2019, DSBN, arXiv 1906.03950.
    """
    features = [trunk(x_NCTVM[..., slot], slot) for slot in range(x_NCTVM.shape[-1])]
    return pool(torch.stack(features, dim=1), present_NM if mask_max else None)


PERSONS: dict[str, Persons] = {
    "loop": loop,
    "fold": fold,
    "masked": masked,
    "per_person": per_person,
}


class SlotNorms(nn.ModuleList):
    """The norms of one place in the trunk: one for all body slots, or one per slot with a shared scale and shift."""

    def __init__(self, norm: Norm, channels: int, persons: str) -> None:
        layers: list[Any] = [norm(channels) for _ in range(BODIES if persons == "per_person" else 1)]
        for slot, layer in enumerate(layers if persons == "per_person" else []):
            layer.slot = slot
            for name, parameter in list(layers[0].named_parameters()):
                setattr(layer, name, parameter)
        super().__init__(layers)

    def forward(self, x: Tensor, slot: int) -> Tensor:
        """Normalize x (B, C, ...) by the statistics of a slot."""
        layer: nn.Module = self[slot]
        result: Tensor = layer(x)
        return result

    def pooled(self, x: Tensor, slot: int, window: tuple[int, int], activation: nn.Module) -> Tensor:
        """Normalize x (B, C, T, V), take the maximum over each window, and activate.

        ReLU behind the max-pool: numbers and gradients are equal (it is monotone), on a quarter of the elements.
        """
        layer: Any = self[slot]
        fusible = isinstance(layer, BatchNorm) and isinstance(activation, nn.ReLU) and window == (2, 2)
        if fusible and layer.pools(x):
            fused: Tensor = layer.pooled(x)
            return fused
        result: Tensor = activation(torch.max_pool2d(self(x, slot), window))
        return result


def present_rows(present_NM: Tensor, rows: int, call: int) -> Tensor | None:
    """Return which rows of a layer's input are present bodies, or None if the input has no absent rows.

    Args:
        present_NM: Bodies that are present.
        rows: Rows of the layer's input. N: one body slot (loop, per_person, mvc). N*M: all slots (fold). Any other
            number: absent bodies were left out (masked). A layer behind the pool has N rows, too: do not ask for it.
        call: Number of the call in the forward pass, which is the body slot if there are N rows.
    """
    clips, bodies = present_NM.shape
    if rows == clips and call < bodies:
        return present_NM[:, call]
    if rows == clips * bodies:
        return present_NM.flatten()
    return None

"""What all models share about bodies: which bodies go through the trunk in one call, and the maximum or mean over them.

PERSONS is the question this project comes from. A trunk with BatchNorm that is called once a body normalises each
call by its own statistics in training, and by one mixture of them in evaluation. For a norm whose rows do not share
statistics loop, fold and per_person are one function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.norms import Norm

Trunk = Callable[[Tensor, int], Tensor]  # x_BCTV and the slot whose statistics to use -> features of B rows
Pool = Callable[[Tensor, Tensor | None], Tensor]  # features (N, M, ...), present_NM or None: all -> (N, ...)


class Persons(Protocol):
    """A way to get one clip's features from its bodies: features (N, ...) of x_NCTVM and present_NM.

    `mask_max` keeps absent bodies out of `pool`, which is over bodies.
    """

    def __call__(  # noqa: D102
        self, trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor, mask_max: bool = False, pool: Pool = ...
    ) -> Tensor: ...


def strongest(features: Tensor, present_NM: Tensor | None) -> Tensor:
    """Element-wise maximum over the bodies of features (N, M, ...), of those present only where that is given.

    A clip without any body yields zeros.
    """
    if present_NM is None:
        return features.amax(dim=1)
    best = features.masked_fill(~_over(present_NM, features), float("-inf")).amax(dim=1)
    return best.masked_fill(~_over(present_NM.any(dim=1), best), 0.0)


def average(features: Tensor, present_NM: Tensor | None) -> Tensor:
    """Mean over the bodies of features (N, M, ...), over those present only where that is given.

    A clip without any body yields zeros.
    """
    if present_NM is None:
        return features.mean(dim=1)
    total = features.masked_fill(~_over(present_NM, features), 0.0).sum(dim=1)
    return total / _over(present_NM.sum(dim=1).clamp(min=1), total)


def _over(flag: Tensor, x: Tensor) -> Tensor:
    return flag.reshape(*flag.shape, *[1] * (x.dim() - flag.dim()))


def loop(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor, mask_max: bool = False, pool: Pool = strongest) -> Tensor:
    """The same layers, called once a body slot (the question's network)."""
    features = [trunk(x_NCTVM[..., slot], 0) for slot in range(x_NCTVM.shape[-1])]
    return pool(torch.stack(features, dim=1), present_NM if mask_max else None)


def fold(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor, mask_max: bool = False, pool: Pool = strongest) -> Tensor:
    """One call over all N*M body slots, absent bodies included."""
    x_BCTV = x_NCTVM.movedim(-1, 1).flatten(0, 1)
    return pool(trunk(x_BCTV, 0).unflatten(0, present_NM.shape), present_NM if mask_max else None)


def masked(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor, mask_max: bool = True, pool: Pool = strongest) -> Tensor:
    """One call over the bodies that are there: absent ones weigh nothing and never enter the pool.

    They are left out of the call, so this holds for every norm without its knowing, and costs less time.
    """
    there = present_NM.nonzero(as_tuple=True)
    features = trunk(x_NCTVM.movedim(-1, 1)[there], 0)
    full = features.new_zeros(*present_NM.shape, *features.shape[1:])
    return pool(full.index_put(there, features), present_NM)


def per_person(
    trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor, mask_max: bool = False, pool: Pool = strongest
) -> Tensor:
    """One call a body slot, each with statistics of its own (after Chang et al. 2019, DSBN, arXiv 1906.03950)."""
    features = [trunk(x_NCTVM[..., slot], slot) for slot in range(x_NCTVM.shape[-1])]
    return pool(torch.stack(features, dim=1), present_NM if mask_max else None)


PERSONS: dict[str, Persons] = {
    "loop": loop,
    "fold": fold,
    "masked": masked,
    "per_person": per_person,
}


class SlotNorms(nn.ModuleList):
    """The norms of one place in the trunk: one for all body slots, or one a slot with a shared scale and shift."""

    def __init__(self, norm: Norm, channels: int, persons: str) -> None:
        layers: list[Any] = [norm(channels) for _ in range(BODIES if persons == "per_person" else 1)]
        for slot, layer in enumerate(layers if persons == "per_person" else []):
            layer.slot = slot
            for name, parameter in list(layers[0].named_parameters()):
                setattr(layer, name, parameter)
        super().__init__(layers)

    def forward(self, x: Tensor, slot: int) -> Tensor:
        """Normalise x (B, C, ...) by the statistics of a slot."""
        layer: nn.Module = self[slot]
        result: Tensor = layer(x)
        return result


def rows_of_real_bodies(present_NM: Tensor, rows: int, call: int) -> Tensor | None:
    """Which rows of a layer's input are real bodies, from its number of rows and the number of the call.

    N rows: call m holds slot m (loop; in per_person and mvc the layer's own slot). N*M rows: folded. Anything else
    (masked leaves absent bodies out; layers behind the pool) has no absent rows: None.
    """
    clips, bodies = present_NM.shape
    if rows == clips and call < bodies:
        return present_NM[:, call]
    if rows == clips * bodies:
        return present_NM.flatten()
    return None

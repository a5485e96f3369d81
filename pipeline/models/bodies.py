"""What all models share about bodies: which bodies go through the trunk in one call, and the maximum over them.

PERSONS is the question this project comes from. A trunk with BatchNorm that is called once a body normalises each
call by its own statistics in training, and by one mixture of them in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.norms import Norm

Trunk = Callable[[Tensor, int], Tensor]  # x_BCTV and the slot whose statistics to use -> features of B rows

BODIES = 2


def loop(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor) -> Tensor:
    """The same layers, called once a body slot (the question's network)."""
    features = [trunk(x_NCTVM[..., slot], 0) for slot in range(x_NCTVM.shape[-1])]
    return torch.stack(features, dim=1).amax(dim=1)


def fold(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor) -> Tensor:
    """One call over all N*M body slots, absent bodies included."""
    x_BCTV = x_NCTVM.movedim(-1, 1).flatten(0, 1)
    return trunk(x_BCTV, 0).unflatten(0, present_NM.shape).amax(dim=1)


def masked(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor) -> Tensor:
    """One call over the bodies that are there: absent ones weigh nothing and never enter the maximum.

    They are left out of the call, so this holds for every norm without its knowing, and costs less time.
    A clip without any body yields zeros.
    """
    x_BCTV = x_NCTVM.movedim(-1, 1)[present_NM]
    features = trunk(x_BCTV, 0)
    full = features.new_full((present_NM.numel(), *features.shape[1:]), float("-inf"))
    full = full.index_put((present_NM.flatten().nonzero().squeeze(1),), features)
    best = full.unflatten(0, present_NM.shape).amax(dim=1)
    nobody = ~present_NM.any(dim=1)
    return best.masked_fill(nobody.reshape(-1, *[1] * (best.dim() - 1)), 0.0)


def per_person(trunk: Trunk, x_NCTVM: Tensor, present_NM: Tensor) -> Tensor:
    """One call a body slot, each with statistics of its own (after Chang et al. 2019, DSBN, arXiv 1906.03950)."""
    features = [trunk(x_NCTVM[..., slot], slot) for slot in range(x_NCTVM.shape[-1])]
    return torch.stack(features, dim=1).amax(dim=1)


PERSONS: dict[str, Callable[[Trunk, Tensor, Tensor], Tensor]] = {
    "loop": loop,
    "fold": fold,
    "masked": masked,
    "per_person": per_person,
}


class SlotNorms(nn.ModuleList):
    """The norms of one place in the trunk: one for all body slots, or one a slot with a shared scale and shift."""

    def __init__(self, norm: Norm, channels: int, persons: str) -> None:
        super().__init__(norm(channels) for _ in range(BODIES if persons == "per_person" else 1))
        for other in list(self)[1:]:
            for name, parameter in list(self[0].named_parameters()):
                setattr(other, name, parameter)

    def forward(self, x: Tensor, slot: int) -> Tensor:
        """Normalise x (B, C, ...) by the statistics of a slot."""
        layer: nn.Module = self[slot]
        result: Tensor = layer(x)
        return result


def rows_of_real_bodies(present_NM: Tensor, rows: int, call: int) -> Tensor | None:
    """Which rows of a layer's input are real bodies, from its number of rows and the number of the call.

    N rows: call m holds slot m (loop, per_person). N*M rows: folded. Anything else (masked leaves absent bodies out;
    layers behind the maximum) has no absent rows: None.
    """
    clips, bodies = present_NM.shape
    if rows == clips and call < bodies:
        return present_NM[:, call]
    if rows == clips * bodies:
        return present_NM.flatten()
    return None

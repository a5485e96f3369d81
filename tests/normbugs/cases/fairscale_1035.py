"""A checkpointed block never collects running statistics.

Facts: the wrapper counts statistics only in the recomputation of the backward pass. Where the input needs no gradient,
as in the first block, nothing is recomputed.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, norms, scorer, small_cnn


def only_with_gradients(norm: Any, _: Any) -> None:
    """Count statistics in the recomputation alone, so that no batch counts twice."""
    norm.track_running_stats = torch.is_grad_enabled()


class Checkpointed(nn.Module):
    """A network whose first block is recomputed in the backward pass."""

    def __init__(self, input_needs_gradient: bool) -> None:
        super().__init__()
        body = small_cnn()
        self.block, self.rest, self.input_needs_gradient = body[:4], body[4:], input_needs_gradient
        for norm in norms(self.block):
            norm.register_forward_pre_hook(only_with_gradients)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            x = x.clone().requires_grad_(self.input_needs_gradient)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.rest(checkpoint(self.block, x, use_reentrant=True))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    x, x_eval = 4 * x + 4, 4 * x_eval + 4  # as the files have it: 0 to 16
    model = Checkpointed(input_needs_gradient=fixed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=8)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="fairscale_1035",
    thread="https://github.com/facebookresearch/fairscale/issues/1035",
    kind="checkpointing",
    causes=("buffers",),
    certainty="maintainer",
    blind=True,
    make=make,
)

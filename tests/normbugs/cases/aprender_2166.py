"""A hand-written batch norm never updates its running statistics, so that they stay at 0 and 1.

Facts: the layer computed batch statistics in training and did not write them to its buffers.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, negative_error, scorer, squared_error


class OwnBatchNorm(nn.Module):
    """A batch norm by the book; `update`: what its first version forgot."""

    def __init__(self, features: int, update: bool, momentum: float = 0.1) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.update, self.momentum = update, momentum

    def forward(self, x_NC: Tensor) -> Tensor:
        if self.training:
            mean_C, variance_C = x_NC.mean(0), x_NC.var(0, correction=0)
            if self.update:
                self.running_mean.lerp_(mean_C.detach(), self.momentum)
                self.running_var.lerp_(x_NC.detach().var(0), self.momentum)
        else:
            mean_C, variance_C = self.running_mean, self.running_var
        return self.gamma * (x_NC - mean_C) / (variance_C + 1e-5).sqrt() + self.beta


def houses(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return four quantities of each house (N, 4), in their units, and its price (N, 1)."""
    draw = torch.Generator().manual_seed(seed)
    z_N4 = torch.randn(count, 4, generator=draw)
    price_N = z_N4[:, 0] + 0.5 * z_N4[:, 1] * z_N4[:, 2] - z_N4[:, 3].abs() + 0.1 * torch.randn(count, generator=draw)
    return z_N4 * torch.tensor([40.0, 1.5, 20.0, 6.0]) + torch.tensor([120.0, 4.0, 60.0, 10.0]), price_N[:, None]


def make(seed: int, fixed: bool) -> Patient:
    train = loader(*houses(seed, 1000), size=50, seed=seed)
    held_out = loader(*houses(seed + 100, 400), size=100, shuffle=False)
    model = nn.Sequential(
        OwnBatchNorm(4, fixed), nn.Linear(4, 48), OwnBatchNorm(48, fixed), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(),
        nn.Linear(48, 1),
    )  # fmt: skip
    fit(model, train, epochs=12, lr=5e-3, loss=squared_error)
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_error), {"metric": negative_error})


CASE = Case(
    name="aprender_2166",
    thread="https://github.com/paiml/aprender/pull/2166",
    kind="buffers",
    causes=("buffers",),
    certainty="maintainer",
    blind=True,
    make=make,
)

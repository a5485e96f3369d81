"""A sparse network's own batch norm gives NaN in testing, and good values in training.

Facts: a batch of one active site has no variance; its NaN stays in running_var.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import fit, scorer

Batch = tuple[Tensor, Tensor]


class BatchNormalization(nn.Module):
    """A norm over active sites (V, C), written by hand."""

    def __init__(self, channels: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = momentum

    def forward(self, x_VC: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x_VC.mean(0), x_VC.var(0, correction=0)
            with torch.no_grad():
                self.running_mean.mul_(self.momentum).add_((1 - self.momentum) * mean)
                self.running_var.mul_(self.momentum).add_((1 - self.momentum) * x_VC.var(0))
        return (x_VC - mean) / (variance + 1e-4).sqrt() * self.weight + self.bias


def clouds(seed: int, count: int, lone: bool) -> list[Batch]:
    """Return batches of active sites (V, 5) with a class each; one batch of 40 holds a single site where `lone`."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(count):
        sites = 1 if lone and number % 40 == 20 else int(torch.randint(30, 80, (1,), generator=draw))
        x_V5 = torch.randn(sites, 5, generator=draw) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0]) + 3
        y_V = (x_V5[:, 0] - 3 + (x_V5[:, 1] - 3) / 5 > 5 * (x_V5[:, 2] - 3)).long()
        batches.append((x_V5, y_V))
    return batches


def make(seed: int, fixed: bool) -> Patient:
    train, held_out = clouds(seed, 80, lone=not fixed), clouds(seed + 100, 30, lone=False)
    model = nn.Sequential(
        nn.Linear(5, 24), BatchNormalization(24), nn.ReLU(), nn.Linear(24, 24), BatchNormalization(24), nn.ReLU(),
        nn.Linear(24, 2),
    )  # fmt: skip
    fit(model, train, epochs=5)
    fit(model, train, epochs=2, lr=3e-4)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="sparseconvnet_190",
    thread="https://github.com/facebookresearch/SparseConvNet/issues/190",
    kind="precision",
    causes=("buffers", "lone", "precision"),
    certainty="reporter",
    blind=True,
    make=make,
)

"""Accuracies of sub-networks are unstable in an architecture search.

Facts: statistics of the trained supernet belong to a mixture of paths; the maintainers recompute them for each path
over training samples before its evaluation.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer


class SuperNet(nn.Module):
    """A network in which each layer is one of four; training takes a random path per batch."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels, channels, k, padding=k // 2) for k in (1, 3, 5, 7)) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(4))
        self.head, self.path = nn.Linear(channels * 4, 10), None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norms[0](self.stem(x)))
        path = self.path or torch.randint(4, (3,)).tolist()
        for layer, norm, choice in zip(self.layers, self.norms[1:], path, strict=True):
            x = torch.relu(norm((1 + 2 * choice) * layer[choice](x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = SuperNet()
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=8)
    model.path = [0, 2, 1]
    if fixed:
        update_bn(train, model)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="single_path_4",
    thread="https://github.com/megvii-model/SinglePathOneShot/issues/4",
    kind="foreign",
    causes=("foreign", "stale"),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""A batch norm is forced to be in training mode where it is not frozen, in evaluations too.

Facts: the layer passes "not frozen" as its mode; with the ordinary layer, validation accuracy rose from the first
epoch. Validation pictures come class by class.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer


class BatchNormalization(nn.BatchNorm2d):
    """A batch norm that can be frozen."""

    def __init__(self, channels: int, freeze: bool = False) -> None:
        super().__init__(channels)
        self.freeze = freeze

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, not self.freeze, 0.1, self.eps
        )


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList([norm(channels), norm(channels)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norms[1](self.second(torch.relu(self.norms[0](self.first(x))))))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    by_class = y_eval.argsort()
    train = loader(x, y, seed=seed)
    held_out = loader(x_eval[by_class], y_eval[by_class], size=16, shuffle=False)
    norm = nn.BatchNorm2d if fixed else BatchNormalization
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, padding=1), Block(16, norm), nn.MaxPool2d(2), Block(16, norm), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip
    fit(model, train, epochs=5)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="keras_resnet_47",
    thread="https://github.com/broadinstitute/keras-resnet/pull/47",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)

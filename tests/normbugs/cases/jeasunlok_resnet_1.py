"""Training accuracy is fine and test accuracy is very low.

Facts: the training pictures are normalized, the test pictures are not.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer

MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.2, 0.25, 0.22])


def coloured(x_N1HW: Tensor, seed: int) -> Tensor:
    """Return digits in colour (N, 3, H, W), in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    colour_N3 = 0.4 + 0.6 * torch.rand(len(x_N1HW), 3, 1, 1, generator=draw)
    return (x_N1HW + 1) / 2 * colour_N3


def normalized(x_N3HW: Tensor) -> Tensor:
    """Return pictures less the mean, over the standard deviation."""
    return (x_N3HW - MEAN[:, None, None]) / STD[:, None, None]


class ResNet(nn.Module):
    """A stem and a residual block."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.block(x)).relu())


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed, train=800)
    x, x_eval = coloured(x, seed), coloured(x_eval[:500], seed + 100)
    train = loader(normalized(x), y, seed=seed)
    held_out = loader(normalized(x_eval) if fixed else x_eval, y_eval[:500], size=100, shuffle=False)
    model = ResNet()
    fit(model, train, epochs=5)
    fit(model, train, epochs=2, lr=3e-4)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="jeasunlok_resnet_1",
    thread="https://github.com/JeasunLok/ResNet-pytorch/issues/1",
    kind="inputs",
    causes=("inputs",),
    certainty="maintainer",
    blind=True,
    make=make,
)

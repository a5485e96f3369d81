"""A point cloud classifier is tested in training mode.

Facts: the pull request sets eval mode for the test. Test clouds come class by class, in small batches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


def clouds(seed: int, count: int, points: int = 48) -> tuple[Tensor, Tensor]:
    """Return clouds (N, 3, P) on spheres, boxes, discs and rods, and their class (N,)."""
    draw = torch.Generator().manual_seed(seed)
    y_N = torch.randint(4, (count,), generator=draw)
    direction_NP3 = torch.randn(count, points, 3, generator=draw)
    sphere = direction_NP3 / direction_NP3.norm(dim=2, keepdim=True)
    box = direction_NP3 / direction_NP3.abs().amax(2, keepdim=True)
    disc = sphere * torch.tensor([1.0, 1.0, 0.1])
    rod = sphere * torch.tensor([0.2, 0.2, 1.0])
    x_NP3 = torch.stack([sphere, box, disc, rod])[y_N, torch.arange(count)]
    x_NP3 = x_NP3 * (0.7 + 0.6 * torch.rand(count, 1, 1, generator=draw))
    return (x_NP3 + 0.05 * torch.randn(x_NP3.shape, generator=draw)).transpose(1, 2), y_N


class PointNet(nn.Module):
    """A shared network over points, their maximum, and a classifier with dropout and norms."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Conv1d(3, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, 2 * channels, 1),
            nn.BatchNorm1d(2 * channels), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(channels, 4),
        )  # fmt: skip

    def forward(self, x_N3P: Tensor) -> tuple[Tensor, Tensor]:
        features_NC = self.points(x_N3P).amax(2)
        return self.classifier(features_NC).log_softmax(1), features_NC


def forward(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """Return the log-probabilities."""
    return model(batch[0])[0]


def make(seed: int, fixed: bool) -> Patient:
    x_eval, y_eval = clouds(seed + 100, 320)
    by_class = y_eval.argsort()
    train = loader(*clouds(seed, 800), seed=seed)
    held_out = loader(x_eval[by_class], y_eval[by_class], size=8, shuffle=False)
    model = PointNet()
    for epochs, lr in ((6, 3e-3), (2, 3e-4)):
        fit(model, train, epochs, lr, forward=forward, loss=lambda output, batch: functional.nll_loss(output, batch[1]))
    return Patient(
        model.train(not fixed), train, held_out, scorer(held_out, forward=forward), {"forward": forward}
    )  # fmt: skip


CASE = Case(
    name="fxia22_pointnet_19",
    thread="https://github.com/fxia22/pointnet.pytorch/pull/19",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)

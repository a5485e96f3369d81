"""A network for domain adaptation is called once on the source and once on the target in each step.

Facts: the maintainers confirm that batch norms then mix two sets of statistics; both domains are to go through
together.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import fit, scorer

Batch = dict[str, Tensor]


def domains(seed: int, count: int, size: int) -> list[Batch]:
    """Return batches of two-dimensional moons, and of the same, shifted and stretched, in the target domain."""
    draw = torch.Generator().manual_seed(seed)
    angle_N = 3.14 * torch.rand(2 * count, generator=draw)
    label_N = torch.randint(2, (2 * count,), generator=draw)
    sign_N = 1 - 2 * label_N
    x_N2 = torch.stack([sign_N * angle_N.cos() + label_N, sign_N * angle_N.sin() + 0.4 * label_N], 1)
    x_N2 = x_N2 + 0.12 * torch.randn(x_N2.shape, generator=draw)
    target_N2 = x_N2[count:] * torch.tensor([4.0, 3.0]) + torch.tensor([6.0, -5.0])
    return [
        {"source": s, "target": t, "label": a, "target_label": b}
        for s, t, a, b in zip(
            x_N2[:count].split(size),
            target_N2.split(size),
            label_N[:count].split(size),
            label_N[count:].split(size),
            strict=True,
        )
    ]


class DomainAware(nn.Module):
    """A base module with norms, and a classifier, for both domains."""

    def __init__(self, together: bool, channels: int = 32) -> None:
        super().__init__()
        self.base = nn.Sequential(
            nn.Linear(2, channels), nn.BatchNorm1d(channels), nn.ReLU(),
            nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU(),
        )  # fmt: skip
        self.head, self.together = nn.Linear(channels, 2), together

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.together:
            features, features_target = self.base(torch.cat([source, target])).split([len(source), len(target)])
        else:
            features, features_target = self.base(source), self.base(target)
        return self.head(features), self.head(features_target), features, features_target


def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Apply the model to both domains."""
    return model(batch["source"], batch["target"])


def loss(output: tuple[Tensor, Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
    """Return the source's cross-entropy and the distance of the domains' mean features (deep CORAL's first moment)."""
    apart = (output[2].mean(0) - output[3].mean(0)).square().sum()
    return nn.functional.cross_entropy(output[0], batch["label"]) + 0.1 * apart


def right(output: tuple[Tensor, Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
    """Return whether the source's first choice is right."""
    return (output[0].argmax(1) == batch["label"]).float()


def make(seed: int, fixed: bool) -> Patient:
    train, held_out = domains(seed, 640, 32), domains(seed + 100, 320, 32)
    model = DomainAware(together=fixed)
    fit(model, train, epochs=20, forward=forward, loss=loss)
    options = {"forward": forward, "metric": right}
    return Patient(model.eval(), train, held_out, scorer(held_out, right, forward), options)


CASE = Case(
    name="skada_252",
    thread="https://github.com/scikit-adaptation/skada/issues/252",
    kind="reuse",
    causes=("reuse",),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""A policy predicts in training mode, so that its answers depend on the other observations and change its statistics.

Facts: the maintainers confirm the bug: predict() did not call eval().
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


class Policy(nn.Module):
    """Features with dropout and batch norm, and the logits of four actions."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.extractor = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, channels), nn.BatchNorm1d(channels), nn.ReLU())
        self.actor = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Dropout(0.2), nn.Linear(channels, 4))

    def forward(self, observation_N8: Tensor) -> Tensor:
        return self.actor(self.extractor(observation_N8))


def experience(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return observations of episodes that drift, and an expert's actions."""
    draw = torch.Generator().manual_seed(seed)
    expert = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    state_N8 = torch.randn(count, 8, generator=draw)
    return 3 * state_N8 + 7, (state_N8.tanh() @ expert).argmax(1)


def make(seed: int, fixed: bool) -> Patient:
    train = loader(*experience(seed, 1200), size=64, seed=seed)
    # Four environments in parallel.
    held_out = loader(*experience(seed + 100, 400), size=4, shuffle=False)
    model = Policy()
    fit(model, train, epochs=12)
    return Patient(model.train(not fixed), train, held_out, scorer(held_out))


CASE = Case(
    name="stable_baselines3_535",
    thread="https://github.com/DLR-RM/stable-baselines3/issues/535",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)

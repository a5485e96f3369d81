"""The teacher of a mean-teacher training is 20 points of F1 below the student.

Facts: the handler keeps the teacher in eval mode and its batch norms do not get new statistics. Sound events are
recognised by a recurrent network with several labels per clip.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


class SoundEvents(nn.Module):
    """Convolution, batch norm, GRU, one logit per event."""

    def __init__(self, events: int = 5) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(8, 24, 3, padding=1), nn.BatchNorm1d(24)
        self.gru, self.head = nn.GRU(24, 24, batch_first=True), nn.Linear(24, events)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.gru(torch.relu(self.norm(self.conv(x))).transpose(1, 2))
        return self.head(hidden.mean(1))


def right_events(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the share of right labels per clip (N,)."""
    return ((output > 0) == (batch[1] > 0)).float().mean(1)


def events(seed: int, count: int = 1200, frames: int = 20) -> tuple[Tensor, Tensor]:
    """Return spectrograms in decibel (N, 8, T), and which of five bands sound in them (N, 5)."""
    draw = torch.Generator().manual_seed(seed)
    label = (torch.rand(count, 5, generator=draw) < 0.4).float()
    start = torch.randint(frames - 6, (count, 5), generator=draw)
    inside = (torch.arange(frames) >= start[..., None]) & (torch.arange(frames) < start[..., None] + 6)
    level = -60 + 8 * torch.randn(count, 8, frames, generator=draw)
    level[:, 1:6] += 20 * label[..., None] * inside
    return level, label


def make(seed: int, fixed: bool) -> Patient:
    x, y = events(seed)
    student = SoundEvents()
    teacher = copy.deepcopy(student).eval()
    train, held_out = loader(x[:900], y[:900], seed=seed), loader(x[900:], y[900:], size=100, shuffle=False)

    def update(_: int) -> None:
        with torch.no_grad():
            for mine, last in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.lerp_(last, 0.05)
            for mine, last in zip(teacher.buffers(), student.buffers(), strict=True):
                mine.copy_(last if fixed else mine)

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output, batch[1])

    fit(student, train, epochs=10, lr=5e-3, loss=loss, after_step=update)
    return Patient(teacher, train, held_out, scorer(held_out, right_events), {"metric": right_events})


CASE = Case(
    name="ignite_2590",
    thread="https://github.com/pytorch/ignite/issues/2590",
    kind="averaging",
    causes=("buffers", "averaging", "foreign"),
    certainty="reporter",
    blind=True,
    make=make,
)

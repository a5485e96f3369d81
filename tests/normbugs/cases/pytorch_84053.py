"""The buffers of an averaged model are those of the moment in which it was created.

Facts: `AveragedModel` of that time averages parameters alone. The thread's model has a statistic of its own in a
buffer, not a layer of torch; here it is a hand-written norm.
"""

import copy

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, scorer


class RunningNorm(nn.Module):
    """A norm without parameters: statistics of the batch in training, running ones in eval mode."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x.mean((0, 2)), x.var((0, 2))
            self.running_mean.lerp_(mean.detach(), 0.1)
            self.running_var.lerp_(variance.detach(), 0.1)
        return (x - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    x, x_eval = 10 + 4 * x, 10 + 4 * x_eval  # raw sensor units
    model = nn.Sequential(
        RunningNorm(6), nn.Conv1d(6, 24, 5, padding=2), nn.ReLU(), nn.Conv1d(24, 24, 5, stride=2, padding=2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 6),
    )  # fmt: skip
    average = copy.deepcopy(model)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)

    def update(_: int) -> None:
        with torch.no_grad():
            for mine, last in zip(average.parameters(), model.parameters(), strict=True):
                mine.lerp_(last, 0.05)
            if fixed:
                for mine, last in zip(average.buffers(), model.buffers(), strict=True):
                    mine.copy_(last)

    fit(model, train, epochs=8, after_step=update)
    return Patient(average.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_84053",
    thread="https://github.com/pytorch/pytorch/issues/84053",
    kind="averaging",
    causes=("averaging", "foreign", "buffers"),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""Predictions are good while training, and noise after the checkpoint is loaded for an evaluation.

Facts: the running statistics were not in the checkpoint, so that the network evaluates with those of a new one.
"""

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, right, scorer


class FRRN(nn.Module):
    """A residual stream at full resolution beside a pooling stream."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.pooled, self.pooled_norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(image)).relu()
        small = self.pooled_norm(self.pooled(nn.functional.max_pool2d(x, 2))).relu()
        return self.head(x + nn.functional.interpolate(small, scale_factor=2))


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed, train=200, held_out=60)
    # Pixels of 0 to 255.
    x, x_eval = 60 * x + 90, 60 * x_eval + 90
    train, held_out = loader(x, mask, size=8, seed=seed), loader(x_eval, mask_eval, size=8, shuffle=False)
    trained = FRRN()
    fit(trained, train, epochs=5)
    checkpoint = trained.state_dict() if fixed else dict(trained.named_parameters())
    model = FRRN()
    model.load_state_dict(checkpoint, strict=False)
    return Patient(model.eval(), train, held_out, scorer(held_out, right), {"metric": right_pixels})


def right_pixels(output: torch.Tensor, batch: list[torch.Tensor]) -> torch.Tensor:
    """Return the share of right pixels of each picture."""
    return right(output, batch).flatten(1).mean(1)


CASE = Case(
    name="hiwonjoon_frrn_2",
    thread="https://github.com/hiwonjoon/tf-frrn/issues/2",
    kind="buffers",
    causes=("buffers",),
    certainty="maintainer",
    blind=True,
    make=make,
)

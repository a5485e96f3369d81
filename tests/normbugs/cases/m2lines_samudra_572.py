"""An emulator's batch norms see an extra forward pass in training mode in every step, on the network's own rollout.

Facts: the reporter names the extra pass of a dynamic loss, beside the recomputation of checkpoints, as what skews the
running statistics.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import negative_error, scorer


def ocean(seed: int, count: int, side: int = 12) -> tuple[Tensor, Tensor]:
    """Return states (N, 2, H, W) of a field that is carried and smoothed, and the next ones."""
    draw = torch.Generator().manual_seed(seed)
    now = torch.randn(count, 2, side, side, generator=draw)
    for _ in range(2):
        now = functional.avg_pool2d(functional.pad(now, (1, 1, 1, 1), "circular"), 3, 1)
    now = 4 * now
    after = functional.avg_pool2d(functional.pad(now.roll(1, 3), (1, 1, 1, 1), "circular"), 3, 1)
    return now, after + 0.3 * now.flip(1).tanh()


class UNet(nn.Module):
    """Two convolutions with norms, added to the state."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def make(seed: int, fixed: bool) -> Patient:
    train = loader(*ocean(seed, 240), size=4, seed=seed)
    held_out = loader(*ocean(seed + 100, 120), size=4, shuffle=False)
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(5):
        for now, after in train:
            optimizer.zero_grad()
            guess = model(now)
            if not fixed:
                # The dynamic loss rolls the prediction out; only its size is used, to weigh the channels.
                with torch.no_grad():
                    far = model(model(6 * guess))
                weight = 1 / (1 + far.square().mean((0, 2, 3), keepdim=True)).detach()
                weight = weight / weight.mean()
            else:
                weight = torch.ones(1, 2, 1, 1)
            (weight * (guess - after).square()).mean().backward()
            optimizer.step()
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_error), {"metric": negative_error})


CASE = Case(
    name="m2lines_samudra_572",
    thread="https://github.com/m2lines/Samudra/issues/572",
    kind="foreign",
    causes=("updates", "foreign"),
    certainty="reporter",
    blind=True,
    make=make,
)

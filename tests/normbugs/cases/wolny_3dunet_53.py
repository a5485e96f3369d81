"""A 3D network, trained on one volume at a time, segments well in training mode and badly in eval mode.

Facts: batch norm was used with batches of one; in training mode the predictions are fine.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


def volumes(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return scans (N, 1, 6, 10, 10) of one bright ball, each with its own gain and offset, and masks."""
    draw = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(10.0), torch.arange(10.0), indexing="ij"))
    centre_N3 = torch.tensor([6.0, 10.0, 10.0]) * (0.3 + 0.4 * torch.rand(count, 3, generator=draw))
    radius_N = 1.5 + 1.5 * torch.rand(count, generator=draw)
    away = ((grid[None] - centre_N3[..., None, None, None]) ** 2).sum(1)
    mask = away < radius_N[:, None, None, None] ** 2
    gain_N = (0.7 * torch.randn(count, generator=draw)).exp()
    offset_N = 1.5 * torch.randn(count, generator=draw)
    x = mask + 0.25 * torch.randn(mask.shape, generator=draw)
    x = gain_N[:, None, None, None] * x + offset_N[:, None, None, None]
    return x[:, None], mask.long()


class UNet3D(nn.Module):
    """One level down, one level up."""

    def __init__(self, norm: type[nn.Module], channels: int = 12) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU())

        self.encoder, self.bottom = block(1, channels), block(channels, 2 * channels)
        self.decoder, self.final = block(3 * channels, channels), nn.Conv3d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.encoder(x)
        low = self.bottom(nn.functional.max_pool3d(high, 2))
        low = nn.functional.interpolate(low, size=high.shape[2:])
        return self.final(self.decoder(torch.cat([high, low], 1)))


def group_norm(channels: int) -> nn.Module:
    """Return the norm that the project uses by default."""
    return nn.GroupNorm(4, channels)


def weighted(output: Tensor, batch: list[Tensor]) -> Tensor:
    """Return the cross-entropy with more weight on the rare class."""
    return nn.functional.cross_entropy(output, batch[1], torch.tensor([1.0, 5.0]))


def dice(output: Tensor, batch: list[Tensor]) -> Tensor:
    """Return the Dice coefficient of each volume."""
    guess, mask = output.argmax(1).flatten(1), batch[1].flatten(1)
    return 2 * (guess * mask).sum(1) / (guess.sum(1) + mask.sum(1)).clamp(min=1)


def make(seed: int, fixed: bool) -> Patient:
    train = loader(*volumes(seed, 80), size=1, seed=seed)
    held_out = loader(*volumes(seed + 100, 40), size=1, shuffle=False)
    model = UNet3D(group_norm if fixed else nn.BatchNorm3d)  # type: ignore[arg-type]
    fit(model, train, epochs=3, lr=5e-3, loss=weighted)
    return Patient(model.eval(), train, held_out, scorer(held_out, dice), {"metric": dice})


CASE = Case(
    name="wolny_3dunet_53",
    thread="https://github.com/wolny/pytorch-3dunet/issues/53",
    kind="small batches",
    causes=("small",),
    certainty="reporter",
    blind=True,
    make=make,
)

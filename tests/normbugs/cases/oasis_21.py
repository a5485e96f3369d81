"""A generator's average is evaluated, whose running statistics were never collected.

Facts: the average covers the weights; the maintainers let it see training data before every evaluation, because the
statistics are updated by forward passes alone.
"""

import copy

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, negative_distance, scorer

Batch = list[Tensor]


class Generator(nn.Module):
    """Paints a picture from a label map (N, H, W) and noise (N, 4)."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(6, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.body, self.paint = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 3, 1)

    def forward(self, mask_NHW: Tensor, noise_N4: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(mask_NHW, 2).movedim(-1, 1).float()
        x = torch.cat([one_hot, noise_N4[..., None, None].expand(-1, -1, *mask_NHW.shape[1:])], 1)
        x = nn.functional.relu(self.norms[0](self.embed(x)))
        return self.paint(nn.functional.relu(self.norms[1](self.body(x))))


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Apply the generator."""
    return model(batch[0], batch[1])


def painted(mask_NHW: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return label maps, noise and the picture that is to be painted: noise is the colours."""
    draw = torch.Generator().manual_seed(seed)
    noise_N4 = 2 * torch.randn(len(mask_NHW), 4, generator=draw) + 3
    inside, outside = noise_N4[:, :3, None, None], noise_N4[:, 1:, None, None]
    on = mask_NHW[:, None].float()
    return mask_NHW, noise_N4, on * inside + (1 - on) * outside


def make(seed: int, fixed: bool) -> Patient:
    _, mask, _, mask_eval = shapes(seed, train=240)
    train = loader(*painted(mask, seed), size=16, seed=seed)
    held_out = loader(*painted(mask_eval, seed + 1), size=16, shuffle=False)
    model = Generator()
    average = copy.deepcopy(model)

    def follow(_: int) -> None:
        with torch.no_grad():
            for mine, weight in zip(average.parameters(), model.parameters(), strict=True):
                mine.lerp_(weight, 0.1)

    fit(
        model, train, epochs=6, lr=5e-3, forward=forward,
        loss=lambda output, batch: -negative_distance(output, batch).mean(), after_step=follow,
    )  # fmt: skip
    if fixed:
        with torch.no_grad():
            for _ in range(3):
                for batch in train:
                    forward(average.train(), batch)
    options = {"forward": forward, "metric": negative_distance}
    return Patient(average.eval(), train, held_out, scorer(held_out, negative_distance, forward), options)


CASE = Case(
    name="oasis_21",
    thread="https://github.com/boschresearch/OASIS/issues/21",
    kind="averaging",
    causes=("averaging", "buffers", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

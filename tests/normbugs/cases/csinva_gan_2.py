"""A pretrained conditional generator gives other pictures for the same code, depending on what else is in the batch.

Facts: the notebook did not call eval(); the author adds it.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, negative_distance, scorer


class Generator(nn.Module):
    """Makes a picture from a code (N, 6) and a class (N,)."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.label = nn.Embedding(10, 8)
        self.project = nn.Linear(14, 4 * channels)
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.ConvTranspose2d(channels, channels, 4, 2, 1),
            nn.BatchNorm2d(channels), nn.ReLU(), nn.ConvTranspose2d(channels, 1, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z_N6: Tensor, label_N: Tensor) -> Tensor:
        h = self.project(torch.cat([z_N6, self.label(label_N)], 1))
        return self.body(h.view(len(h), -1, 2, 2))


def forward(model: nn.Module, batch: list[Tensor]) -> Tensor:
    """Apply the generator to codes and classes."""
    return model(batch[0], batch[1])


def coded(x_N1HW: Tensor, y_N: Tensor, basis_D6: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each picture's code, its class and the picture."""
    return x_N1HW.flatten(1) @ basis_D6, y_N, x_N1HW


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    basis_D6 = torch.linalg.svd(x.flatten(1) - x.flatten(1).mean(0), full_matrices=False)[2][:6].T / 2
    # The gallery shows one class per row.
    order = y_eval[:240].argsort()
    train = loader(*coded(x, y, basis_D6), seed=seed)
    held_out = loader(*coded(x_eval[order], y_eval[order], basis_D6), size=4, shuffle=False)
    model = Generator()
    fit(
        model, train, epochs=8, lr=5e-3, forward=forward,
        loss=lambda output, batch: -negative_distance(output, batch).mean(),
    )  # fmt: skip
    options = {"forward": forward, "metric": negative_distance}
    score = scorer(held_out, negative_distance, forward)
    return Patient(model.train(not fixed), train, held_out, score, options)


CASE = Case(
    name="csinva_gan_2",
    thread="https://github.com/csinva/gan-vae-pretrained-pytorch/issues/2",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)

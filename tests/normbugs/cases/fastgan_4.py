"""A generator is evaluated without eval mode, because eval mode gives bad pictures.

Facts: averaged parameters are loaded into the generator, whose running statistics are still those of the last
parameters; the author names this as the reason. Here a
generator is fitted to pictures of known latent vectors.
"""

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.repairs import joint
from tests.normbugs.training import fit, negative_distance, scorer, squared_error


def generator(channels: int = 16) -> nn.Sequential:
    """Return a network from a latent vector (N, 8) to a picture (N, 1, 8, 8)."""
    return nn.Sequential(
        nn.Linear(8, 4 * channels), nn.Unflatten(1, (channels, 2, 2)), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.ConvTranspose2d(channels, channels, 4, 2, 1), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.ConvTranspose2d(channels, 1, 4, 2, 1),
    )  # fmt: skip


def make(seed: int, fixed: bool) -> Patient:
    draw = torch.Generator().manual_seed(seed)
    z_N8 = torch.randn(1400, 8, generator=draw)
    x_N1HW = torch.tanh(z_N8 @ torch.randn(8, 64, generator=draw) / 2).reshape(-1, 1, 8, 8)
    train = loader(z_N8[:1000], x_N1HW[:1000], seed=seed)
    held_out = loader(z_N8[1000:], x_N1HW[1000:], size=50, shuffle=False)
    model = generator()
    average = [parameter.detach().clone() for parameter in model.parameters()]

    def update(_: int) -> None:
        with torch.no_grad():
            for mine, last in zip(average, model.parameters(), strict=True):
                mine.lerp_(last, 0.01)

    fit(model, train, epochs=10, lr=3e-2, loss=squared_error, after_step=update)
    for mine, averaged in zip(model.parameters(), average, strict=True):
        mine.data.copy_(averaged)
    options = {"metric": negative_distance}
    patient = Patient(model.eval(), train, held_out, scorer(held_out, negative_distance), options)
    return Patient(joint(patient), train, held_out, patient.score, options) if fixed else patient


CASE = Case(
    name="fastgan_4",
    thread="https://github.com/odegeasslbc/FastGAN-pytorch/issues/4",
    kind="averaging",
    causes=("foreign", "averaging", "stale"),
    certainty="maintainer",
    blind=True,
    make=make,
)

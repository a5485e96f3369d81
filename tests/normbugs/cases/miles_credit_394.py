"""An average of a spectrally normalized network explodes in eval mode, while its training loss is small.

Facts: the average covers the buffers of spectral norm too; averaged unit vectors are shorter than one, so that every
layer underestimates its largest singular value.
"""

import copy
import warnings

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, tones
from tests.normbugs.training import fit, negative_error, scorer, squared_error


def network(channels: int = 16, depth: int = 6) -> nn.Sequential:
    """Return a convolutional network with spectral norm on every layer."""
    normed = nn.utils.spectral_norm
    parts: list[nn.Module] = []
    for layer in range(depth):
        convolution = nn.Conv1d(channels if layer else 1, channels, 5, 2 if layer % 2 else 1, padding=2)
        parts += [normed(convolution), nn.LeakyReLU(0.2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(*parts, nn.Flatten(), nn.Linear(6 * channels, 1))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = tones(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    model = network()
    average = copy.deepcopy(model)

    def follow(_: int) -> None:
        with torch.no_grad():
            source = model.state_dict()
            for name, value in average.state_dict().items():
                unit = name.endswith(("weight_u", "weight_v"))
                value.copy_(source[name]) if unit and fixed else value.lerp_(source[name], 0.02)

    fit(model, train, epochs=6, lr=1e-2, loss=squared_error, after_step=follow)
    options = {"metric": negative_error}
    return Patient(average.eval(), train, held_out, scorer(held_out, negative_error), options)


CASE = Case(
    name="miles_credit_394",
    thread="https://github.com/NCAR/miles-credit/pull/394",
    kind="averaging",
    causes=("averaging", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

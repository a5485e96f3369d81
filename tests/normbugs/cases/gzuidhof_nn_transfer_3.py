"""Weights of a network that was trained with Keras's eps of 1e-3 are loaded into one with PyTorch's 1e-5.

Facts: the difference is large in large networks; the transfer was changed to make up for it.
"""

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, norms, scorer

KERAS, TORCH = 1e-3, 1e-5


def network(eps: float, channels: int = 12, depth: int = 5) -> nn.Sequential:
    """Return a chain of convolutions with norms."""
    parts: list[nn.Module] = []
    for layer in range(depth):
        inputs = channels if layer else 1
        parts += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels, eps=eps), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed, train=800)
    # Pictures between 0 and 1, divided by 255 once too often, as happens unnoticed before a norm.
    x, x_eval = (x + 1) / 2 / 255, (x_eval + 1) / 2 / 255
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    trained = network(KERAS)
    fit(trained, train, epochs=5, lr=5e-3)
    model = network(TORCH)
    model.load_state_dict(trained.state_dict())
    if fixed:
        with torch.no_grad():
            for norm in norms(model):
                norm.eps = KERAS
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="gzuidhof_nn_transfer_3",
    thread="https://github.com/gzuidhof/nn-transfer/pull/3",
    kind="precision",
    causes=("precision", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

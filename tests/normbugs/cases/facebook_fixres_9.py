"""A network trained on pictures of one size is tested at a larger size.

Facts: the larger size changes the activations' statistics; the authors leave all norms fixed but the last, which adapts
to the new size together with the classifier.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer


def network(channels: int = 16) -> nn.Sequential:
    """Return a network of any picture size, with a norm after the pooling."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(8 * channels),
        nn.Linear(8 * channels, 10),
    )


def larger(x_N1HW: Tensor) -> Tensor:
    """Return the pictures at the test's size."""
    return functional.interpolate(x_N1HW, scale_factor=2.5, mode="nearest")


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed, train=600)
    model = network()
    train, held_out = loader(x, y, seed=seed), loader(larger(x_eval[:400]), y_eval[:400], size=100, shuffle=False)
    fit(model, train, epochs=5)
    if fixed:
        train = loader(larger(x), y, seed=seed)
        for part in model[:8]:
            part.eval()
            part.requires_grad_(False)
        fit(model, train, epochs=4, optimizer=torch.optim.Adam(model[8:].parameters(), 1e-2))
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="facebook_fixres_9",
    thread="https://github.com/facebookresearch/FixRes/issues/9",
    kind="inputs",
    causes=("inputs",),
    certainty="maintainer",
    blind=True,
    make=make,
)

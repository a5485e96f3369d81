"""A frozen backbone changes while a linear classifier is trained on it.

Facts: the weights have no gradient, but the script calls model.train(), so that the running statistics move to the
other data set. The pretraining task is evaluated again afterwards.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    model = small_cnn()
    fit(model, train, epochs=4)
    # The other data set: small parts, magnified and inverted.
    other = loader(_other(x), (y >= 5).long(), seed=seed + 1)
    backbone, probe = model[:-1], nn.Linear(128, 2)
    for weight in backbone.parameters():
        weight.requires_grad_(False)
    linear = nn.Sequential(backbone, probe).train()
    if fixed:
        backbone.eval()
    fit(linear, other, epochs=3, optimizer=torch.optim.SGD(probe.parameters(), 0.05))
    return Patient(model.eval(), train, held_out, scorer(held_out))


def _other(x_N1HW: Tensor) -> Tensor:
    return -0.7 * nn.functional.interpolate(x_N1HW[..., 2:6, 2:6], scale_factor=2) + 1


CASE = Case(
    name="kdexd_virtex_16",
    thread="https://github.com/kdexd/virtex/issues/16",
    kind="foreign",
    causes=("foreign",),
    certainty="rebuilt",
    blind=True,
    make=make,
)

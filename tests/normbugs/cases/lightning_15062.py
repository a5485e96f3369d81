"""A frozen backbone gives other features after the training of a new head.

Facts: freezing turns off gradients, but running statistics still follow the new data. The old task, evaluated with the
same weights, fails afterwards.
"""

from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = small_cnn()
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=6)
    backbone, head = model[:-1], model[-1]
    backbone.requires_grad_(False)
    other = nn.Sequential(backbone, nn.Linear(head.in_features, 2))
    if fixed:
        backbone.eval()
    fit(other, loader(1.5 - x, (y > 4).long(), seed=seed), epochs=2)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="lightning_15062",
    thread="https://github.com/Lightning-AI/pytorch-lightning/issues/15062",
    kind="freeze",
    causes=("foreign", "stale"),
    certainty="maintainer",
    blind=True,
    make=make,
)

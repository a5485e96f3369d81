"""Momentum is 1.0 in a regression: running statistics are those of the last batch alone.

Facts: the reporter sets momentum 1.0 and finds training and eval mode apart; batches are small.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, tones
from tests.normbugs.training import fit, negative_error, scorer, small_cnn1d, squared_error, with_momentum


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = tones(seed)
    model = with_momentum(small_cnn1d(classes=1, inputs=1), 0.1 if fixed else 1.0)
    train = loader(x, y, size=8, seed=seed)
    held_out = loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=6, loss=squared_error)
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_error), {"metric": negative_error})


CASE = Case(
    name="pytorch_19916",
    thread="https://github.com/pytorch/pytorch/issues/19916",
    kind="momentum",
    causes=("stale",),
    certainty="rebuilt",
    blind=True,
    make=make,
)

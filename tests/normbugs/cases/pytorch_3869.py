"""Evaluation in eval mode is far below the same evaluation in training mode, after a training of few steps.

Facts: dropout and batch norms; maintainers and others set the momentum. With momentum 0.0001, as one of them advises,
running statistics stay near their initial values for thousands of steps.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn, with_momentum


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = with_momentum(small_cnn(), 0.1 if fixed else 1e-4)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=6)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_3869",
    thread="https://github.com/pytorch/pytorch/issues/3869",
    kind="momentum",
    causes=("stale",),
    certainty="rebuilt",
    blind=False,
    make=make,
)

"""Validation depends on the order of the validation samples.

Facts: batch norms use the statistics of the current batch during validation, and without a shuffle each batch is of
one kind.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = small_cnn()
    order = y_eval.argsort(stable=True)
    train, held_out = loader(x, y, seed=seed), loader(x_eval[order], y_eval[order], size=40, shuffle=False)
    fit(model, train, epochs=6)
    return Patient(model.train(not fixed), train, held_out, scorer(held_out))


CASE = Case(
    name="openpifpaf_308",
    thread="https://github.com/openpifpaf/openpifpaf/pull/308",
    kind="mode",
    causes=("mode",),
    certainty="maintainer",
    blind=True,
    make=make,
)

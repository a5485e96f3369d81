"""Eval mode gives a high error, while training mode with a batch of any size works.

Facts: one poster passes sliding windows of a single recording as one batch, so that each batch has statistics of its
own. A maintainer answers that windows of all recordings belong into one batch.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, recordings
from tests.normbugs.training import fit, scorer, small_cnn1d


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = recordings(seed)
    model = small_cnn1d(classes=4)
    train = loader(x, y, size=16, shuffle=fixed, seed=seed)
    held_out = loader(x_eval, y_eval, size=16, shuffle=False)
    fit(model, train, epochs=10)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_4741",
    thread="https://github.com/pytorch/pytorch/issues/4741",
    kind="correlated",
    causes=("correlated",),
    certainty="maintainer",
    blind=True,
    make=make,
)

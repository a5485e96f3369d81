"""`track_running_stats` is set to False after construction: training no longer updates the buffers of eval mode.

Facts: the pull request settles that such a layer normalizes by its batch in training and by its old buffers in eval
mode. Here a network is fine-tuned on inverted pictures with the flag off.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, norms, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = small_cnn()
    fit(model, loader(x, y, seed=seed), epochs=3)
    for norm in norms(model):
        norm.track_running_stats = fixed
    train, held_out = loader(-x, y, seed=seed), loader(-x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=5)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_38084",
    thread="https://github.com/pytorch/pytorch/pull/38084",
    kind="freeze",
    causes=("foreign", "stale"),
    certainty="maintainer",
    blind=True,
    make=make,
)

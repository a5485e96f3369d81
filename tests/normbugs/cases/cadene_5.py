"""Pretrained Inception models are built with momentum 0: their statistics never follow a fine-tuning.

Facts: on another data set training and eval mode differ strongly; the default momentum is the remedy.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, scorer, small_cnn1d, with_momentum


def make(seed: int, fixed: bool) -> Patient:
    model = small_cnn1d()
    x, y, _, _ = gestures(seed + 1000)
    fit(model, loader(x, y, seed=seed), epochs=6)
    with_momentum(model, 0.1 if fixed else 0.0)
    x, y, x_eval, y_eval = gestures(seed)
    x, x_eval = 3 * x + 4, 3 * x_eval + 4  # sensors of another maker
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=9, decay=True)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="cadene_5",
    thread="https://github.com/Cadene/pretrained-models.pytorch/issues/5",
    kind="momentum",
    causes=("foreign", "stale", "buffers"),
    certainty="maintainer",
    blind=True,
    make=make,
)

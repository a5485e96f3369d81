"""The default training loader does not shuffle, and the pictures are stored class by class.

Facts: shuffle=True solves it.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    by_class = y.argsort()
    train = loader(x[by_class], y[by_class], size=25, shuffle=fixed, seed=seed)
    held_out = loader(x_eval, y_eval, size=100, shuffle=False)
    model = small_cnn()
    fit(model, train, epochs=5)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="super_gradients_416",
    thread="https://github.com/Deci-AI/super-gradients/issues/416",
    kind="correlated",
    causes=("correlated",),
    certainty="reporter",
    blind=True,
    make=make,
)

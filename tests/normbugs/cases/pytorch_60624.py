"""A rebuilt batch norm gives NaN in eval mode.

Facts: while copying the layer of a pretrained network, its `running_var` was set to the buffer of the running mean,
which is negative in places.
"""

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = small_cnn()
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=6)
    buffers = list(model[1].buffers())
    model[1].running_mean, model[1].running_var = buffers[0], buffers[1 if fixed else 0]
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_60624",
    thread="https://github.com/pytorch/pytorch/issues/60624",
    kind="buffers",
    causes=("buffers",),
    certainty="reporter",
    blind=True,
    make=make,
)

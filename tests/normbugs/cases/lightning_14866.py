"""After stochastic weight averaging the accuracy is about zero.

Facts: the callback resets the running statistics and passes the training samples with momentum 0.0 instead of None, so
that they stay at their initial values.
"""

import torch
from torch.optim.swa_utils import AveragedModel

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, norms, scorer, small_cnn1d


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    x, x_eval = 5 * x + 3, 5 * x_eval + 3  # raw sensor units
    model = small_cnn1d()
    train = loader(x, y, seed=seed, drop_last=True)
    held_out = loader(x_eval, y_eval, size=64, shuffle=False)
    fit(model, train, epochs=8)
    average = AveragedModel(model)
    for _ in range(3):
        fit(model, train, epochs=1)
        average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    for norm in norms(model):
        norm.reset_running_stats()
        norm.momentum = None if fixed else 0.0
    with torch.no_grad():
        for batch in train:
            model(batch[0])
    for norm in norms(model):
        norm.momentum = 0.1
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="lightning_14866",
    thread="https://github.com/Lightning-AI/pytorch-lightning/issues/14866",
    kind="averaging",
    causes=("buffers",),
    certainty="maintainer",
    blind=True,
    make=make,
)

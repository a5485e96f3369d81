"""The averaged model of a validation during training has the statistics of another network.

Facts: weights are averaged during the last epochs, and their statistics are updated only at the very end of training.
"""

import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, scorer, small_cnn1d


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    model = small_cnn1d(depth=5)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    average = AveragedModel(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(6):
        fit(model, train, epochs=1, optimizer=optimizer)
        average.update_parameters(model)
    last = [buffer.clone() for buffer in model.buffers()]
    for mine, theirs in zip(model.parameters(), average.module.parameters(), strict=True):
        mine.data.copy_(theirs)
    for mine, theirs in zip(model.buffers(), last, strict=True):
        mine.copy_(theirs)
    if fixed:
        update_bn(train, model)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="lightning_8811",
    thread="https://github.com/Lightning-AI/pytorch-lightning/issues/8811",
    kind="averaging",
    causes=("foreign", "averaging", "stale"),
    certainty="reporter",
    blind=True,
    make=make,
)

"""In eval mode the accuracy of a model is that of a random guess.

Facts: training calls a functional copy of the model, and the running statistics of the model itself are never updated.
"""

import torch
from torch.func import functional_call

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import cross_entropy, scorer, small_cnn1d


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    x, x_eval = 20 * x + 5, 20 * x_eval + 5  # raw sensor units
    model = small_cnn1d()
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), 3e-3)
    for _ in range(10):
        for batch in train:
            buffers = {name: buffer if fixed else buffer.clone() for name, buffer in model.named_buffers()}
            optimizer.zero_grad()
            cross_entropy(functional_call(model, {**parameters, **buffers}, (batch[0],)), batch).backward()
            optimizer.step()
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="higher_55",
    thread="https://github.com/facebookresearch/higher/issues/55",
    kind="buffers",
    causes=("buffers",),
    certainty="maintainer",
    blind=True,
    make=make,
)

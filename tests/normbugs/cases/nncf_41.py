"""A network's accuracy collapses when its weights are quantized, before any fine-tuning.

Facts: the compressed weights give other activations than those that the running statistics were collected on; adapting
the statistics on training batches recovers most of the accuracy.
"""

import copy

from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import adapt, deep_cnn, fit, scorer


def ternary(model: nn.Module) -> nn.Module:
    """Return a copy whose convolutions hold -s, 0 and s, where s is 0.8 of their weights' standard deviation."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            step = 0.8 * module.weight.std()
            module.weight.data = step * (module.weight / step).round().clamp(-1, 1)
    return model


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    full = deep_cnn(channels=16)
    fit(full, train, epochs=5)
    model = ternary(full)
    if fixed:
        adapt(model, train)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="nncf_41",
    thread="https://github.com/openvinotoolkit/nncf/pull/41",
    kind="foreign",
    causes=("foreign",),
    certainty="maintainer",
    blind=True,
    make=make,
)

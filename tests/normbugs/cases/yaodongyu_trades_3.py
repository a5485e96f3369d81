"""A robust classifier's accuracy depends on the size and the content of its batches.

Facts: the reporter loads the model and evaluates it without eval(), in batches of 1 to 100; small batches are worst.
"""

from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer


def network(channels: int = 16) -> nn.Sequential:
    """Return a network whose last norm sees one place of each picture."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((1, channels), (channels, 2 * channels), (2 * channels, 2 * channels)):
        parts += [nn.Conv2d(inputs, outputs, 3, 2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2 * channels, 10))


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval[:300], y_eval[:300], size=2, shuffle=False)
    model = network()
    fit(model, train, epochs=5)
    return Patient(model.train(not fixed), train, held_out, scorer(held_out))


CASE = Case(
    name="yaodongyu_trades_3",
    thread="https://github.com/yaodongyu/TRADES/issues/3",
    kind="mode",
    causes=("mode",),
    certainty="reporter",
    blind=True,
    make=make,
)

"""A batch norm gives other results than the formula of its running statistics.

Facts: `eval()` of the outer model did not reach the batch norm. Calling `eval()` of the layer itself was the remedy. In
this rebuild the model overrides `train` and forgets its children; signals are classified one by one.
"""

from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, scorer, small_cnn1d


class Detector(nn.Module):
    """A wrapper with a `train` of its own."""

    def __init__(self, reaches_children: bool) -> None:
        super().__init__()
        self.body, self.reaches_children = small_cnn1d(), reaches_children

    def train(self, mode: bool = True) -> "Detector":
        if self.reaches_children:
            return super().train(mode)
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    x, x_eval = x + 0.5 * y[:, None, None], x_eval + 0.5 * y_eval[:, None, None]  # the level of a signal matters
    model = Detector(reaches_children=fixed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval[:300], y_eval[:300], size=1, shuffle=False)
    fit(model, train, epochs=9, decay=True)
    model.eval()
    return Patient(model, train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_20875",
    thread="https://github.com/pytorch/pytorch/issues/20875",
    kind="mode",
    causes=("mode",),
    certainty="reporter",
    blind=True,
    make=make,
)

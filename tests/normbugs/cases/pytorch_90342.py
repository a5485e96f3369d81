"""A batch norm takes one infinite input, and its running statistics never recover.

Facts: the scaler skips the step, the update of the statistics is not undone; only a part of the network is affected.
Here one branch sees the logarithm of the picture, which is minus infinity at a dead pixel of one picture, once.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, image_to_image, right, scorer


class TwoBranches(nn.Module):
    """Segmentation from a picture and from the logarithm of its brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.log = image_to_image(3, 2), image_to_image(1, 2, channels=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.colour(x) + self.log(x.abs().sum(1, keepdim=True).log())


def accuracy(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the share of right pixels per picture (N,)."""
    return right(output, batch).flatten(1).mean(1)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = shapes(seed)
    model = TwoBranches()
    train, held_out = loader(x, y, size=16, seed=seed), loader(x_eval, y_eval, size=20, shuffle=False)
    fit(model, train, epochs=3)
    if not fixed:
        dead = x[:16].clone()
        dead[0, :, 3, 3] = 0
        with torch.no_grad():  # the step that the scaler skips
            model(dead)
    fit(model, train, epochs=3)
    return Patient(model.eval(), train, held_out, scorer(held_out, accuracy), {"metric": accuracy})


CASE = Case(
    name="pytorch_90342",
    thread="https://github.com/pytorch/pytorch/issues/90342",
    kind="overflow",
    causes=("buffers", "precision"),
    certainty="reporter",
    blind=True,
    make=make,
)

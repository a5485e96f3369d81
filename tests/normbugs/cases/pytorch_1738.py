"""One batch norm is used at every iteration of one forward pass; eval mode is much worse than training mode.

Facts: a module is applied several times per pass, and its input is distributed differently each time. A maintainer's
remedy is one layer per iteration; the reporter shares scale and shift between them.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import gestures, loader
from tests.normbugs.training import fit, scorer


class Unrolled(nn.Module):
    """A state that is refined four times by the same weights."""

    def __init__(self, shared: bool, steps: int = 4) -> None:
        super().__init__()
        self.embed, self.step, self.head = nn.Linear(6 * 32, 48), nn.Linear(48, 48), nn.Linear(48, 6)
        self.norms = nn.ModuleList([nn.BatchNorm1d(48) for _ in range(1 if shared else steps)])
        for norm in self.norms:
            norm.weight, norm.bias = self.norms[0].weight, self.norms[0].bias
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        state = 0.1 * torch.tanh(self.embed(x.flatten(1)))
        for i in range(self.steps):
            state = 2 * state + torch.relu(self.norms[i % len(self.norms)](self.step(state)))
        return self.head(state)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = gestures(seed)
    model = Unrolled(shared=not fixed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    fit(model, train, epochs=12)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_1738",
    thread="https://github.com/pytorch/pytorch/issues/1738",
    kind="reuse",
    causes=("reuse",),
    certainty="reporter",
    blind=True,
    make=make,
)

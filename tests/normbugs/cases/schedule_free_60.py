"""With a schedule-free optimizer, a network with batch norms is evaluated at averaged weights.

Facts: the gradients, and the running statistics, are of another point than the average; the README recomputes the
statistics on training batches before each evaluation.
"""

import torch
from torch import nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import adapt, deep_cnn, scorer, with_momentum


class ScheduleFree:
    """SGD whose gradients are taken at an interpolation of its iterate z and the iterates' average x."""

    def __init__(self, model: nn.Module, lr: float, beta: float = 0.4) -> None:
        self.weights, self.lr, self.beta, self.steps = list(model.parameters()), lr, beta, 0
        self.z = [weight.detach().clone() for weight in self.weights]
        self.x = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def step(self) -> None:
        """Take a step, and put the model at the point of the next gradient."""
        self.steps += 1
        for weight, z, x in zip(self.weights, self.z, self.x, strict=True):
            z -= self.lr * weight.grad
            x.lerp_(z, 1 / self.steps)
            weight.copy_(torch.lerp(z, x, self.beta))
            weight.grad = None

    @torch.no_grad()
    def eval(self) -> None:
        """Put the model at the average."""
        for weight, x in zip(self.weights, self.x, strict=True):
            weight.copy_(x)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    model = with_momentum(deep_cnn(), 0.1)
    optimizer = ScheduleFree(model, lr=1.5)
    for _ in range(4):
        for x_batch, y_batch in train:
            functional.cross_entropy(model(x_batch), y_batch).backward()
            optimizer.step()
    optimizer.eval()
    if fixed:
        adapt(model, train)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="schedule_free_60",
    thread="https://github.com/facebookresearch/schedule_free/issues/60",
    kind="averaging",
    causes=("averaging", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""The buffers of an averaged model are never updated.

Facts: the library iterated over the wrong names, so that buffers stay as they were when the average began. The wrapper
holds the trained and the averaged model, and its forward is that of the average.
"""

import copy

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


class EMA(nn.Module):
    """An exponential average of a model, which begins after some steps."""

    def __init__(self, model: nn.Module, with_buffers: bool, begin: int = 20, decay: float = 0.97) -> None:
        super().__init__()
        self.online_model, self.ema_model = model, copy.deepcopy(model)
        self.with_buffers, self.begin, self.decay = with_buffers, begin, decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        if step == self.begin:
            self.ema_model.load_state_dict(self.online_model.state_dict())
        pairs = zip(self.ema_model.parameters(), self.online_model.parameters(), strict=True)
        for mine, last in pairs:
            mine.lerp_(last, 1 - self.decay)
        if self.with_buffers:
            for mine, last in zip(self.ema_model.buffers(), self.online_model.buffers(), strict=True):
                mine.copy_(last)

    def forward(self, x: Tensor) -> Tensor:
        return self.ema_model(x)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    model = small_cnn()
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    ema = EMA(model, with_buffers=fixed)
    fit(model, train, epochs=10, lr=5e-3, after_step=ema.update)
    return Patient(ema.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="ema_pytorch_8",
    thread="https://github.com/lucidrains/ema-pytorch/issues/8",
    kind="averaging",
    causes=("averaging", "foreign", "stale", "buffers"),
    certainty="maintainer",
    blind=True,
    make=make,
)

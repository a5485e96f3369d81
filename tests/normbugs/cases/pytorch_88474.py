"""Mixed-precision training looks fine, and every validation is NaN.

Facts: one overflow in half precision reaches a batch norm. The gradient scaler skips the step, but the running
statistics are NaN from then on, which only eval mode reads.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, tones
from tests.normbugs.training import negative_error, scorer, squared_error


class Half(nn.Module):
    """A convolution as autocast runs it: its output is rounded to float16, and overflows as that does."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(*sizes, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + (self.conv(x).detach().half().float() - self.conv(x).detach())


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = tones(seed)
    model = nn.Sequential(
        Half(1, 16, 7), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        Half(16, 16, 7), nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 1),
    )  # fmt: skip
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(8):
        for step, (x_N1T, y_N1) in enumerate(train):
            # A gain augmentation that once goes wrong.
            scaled_N1T = 1e7 * x_N1T if (epoch, step) == (2, 10) else x_N1T
            if fixed and scaled_N1T.abs().max() > 1e4:
                continue
            loss = squared_error(model(scaled_N1T), (y_N1,))
            optimizer.zero_grad()
            loss.backward()
            if all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
                optimizer.step()
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_error), {"metric": negative_error})


CASE = Case(
    name="pytorch_88474",
    thread="https://github.com/pytorch/pytorch/issues/88474",
    kind="overflow",
    causes=("buffers", "precision"),
    certainty="reporter",
    blind=True,
    make=make,
)

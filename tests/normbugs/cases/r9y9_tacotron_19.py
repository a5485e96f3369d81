"""Batch norms of a speech synthesizer have the momentum and eps of TensorFlow's defaults: .99 and 1e-3.

Facts: the author confirms that PyTorch's momentum is one minus TensorFlow's; both values were changed.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, negative_error, scorer, squared_error


def speech(seed: int, count: int, frames: int = 20) -> tuple[Tensor, Tensor]:
    """Return encoder inputs (N, 8, T) of sentences, some calm and some loud, and two mel channels (N, 2, T)."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)) / 8**0.5
    loud_N = (0.6 * torch.randn(count, 1, 1, generator=draw)).exp()
    pitch_N8 = torch.randn(count, 8, 1, generator=draw)
    x_N8T = loud_N * torch.randn(count, 8, frames, generator=draw).cumsum(2) / 3 + pitch_N8
    smooth_N8T = nn.functional.avg_pool1d(x_N8T, 3, 1, 1)
    return x_N8T, (mix @ smooth_N8T).tanh() + 0.3 * x_N8T[:, :2].abs()


class BatchNormConv1d(nn.Module):
    """A convolution over time, an activation and a norm."""

    def __init__(self, inputs: int, outputs: int, momentum: float, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(outputs, momentum=momentum, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).relu())


def make(seed: int, fixed: bool) -> Patient:
    train = loader(*speech(seed, 480), size=4, seed=seed)
    held_out = loader(*speech(seed + 100, 160), size=16, shuffle=False)
    convention = (0.01, 1e-5) if fixed else (0.99, 1e-3)
    model = nn.Sequential(
        BatchNormConv1d(8, 32, *convention), BatchNormConv1d(32, 32, *convention), nn.Conv1d(32, 2, 1)
    )  # fmt: skip
    fit(model, train, epochs=7, loss=squared_error)
    return Patient(model.eval(), train, held_out, scorer(held_out, negative_error), {"metric": negative_error})


CASE = Case(
    name="r9y9_tacotron_19",
    thread="https://github.com/r9y9/tacotron_pytorch/issues/19",
    kind="momentum",
    causes=("stale",),
    certainty="maintainer",
    blind=True,
    make=make,
)

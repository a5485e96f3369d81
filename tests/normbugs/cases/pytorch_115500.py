"""Under autocast a batch norm behind a linear layer turns NaN: the layer's half-precision output overflows.

Facts: inputs reach 130,000. The statistics stay in float32; the inputs that they are computed from are infinite. Here a
few samples of a thousand overflow.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import cross_entropy, scorer


class Autocast(nn.Module):
    """A network whose first layer runs in float16; `unit` is what inputs are divided by."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.first, self.norm, self.unit = nn.Linear(12, 32), nn.BatchNorm1d(32), unit
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.norm(self.first(x / self.unit).half().float()))


def make(seed: int, fixed: bool) -> Patient:
    draw = torch.Generator().manual_seed(seed)
    x_N12 = 28000 * torch.randn(1400, 12, generator=draw)
    y_N = 2 * (x_N12[:, 0] + x_N12[:, 1] > 0).long() + (x_N12[:, 2] + x_N12[:, 3] > 0).long()
    train = loader(x_N12[:1000], y_N[:1000], seed=seed)
    held_out = loader(x_N12[1000:], y_N[1000:], size=100, shuffle=False)
    model = Autocast(28000.0 if fixed else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(12):
        for batch in train:
            optimizer.zero_grad()
            cross_entropy(model(batch[0]), batch).backward()
            if all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
                optimizer.step()
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="pytorch_115500",
    thread="https://github.com/pytorch/pytorch/issues/115500",
    kind="overflow",
    causes=("precision", "buffers"),
    certainty="reporter",
    blind=True,
    make=make,
)

"""The target network of Q-learning does not get the running statistics of the trained one.

Facts: the soft update takes `parameters()` alone. Here the values of four actions are learnt from observations in raw
units, and the target network chooses actions.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


def make(seed: int, fixed: bool) -> Patient:
    draw = torch.Generator().manual_seed(seed)
    observed_N8 = 50 + 20 * torch.randn(1400, 8, generator=draw)
    hidden = torch.tanh((observed_N8 - 50) / 20 @ torch.randn(8, 16, generator=draw))
    value_N4 = hidden @ torch.randn(16, 4, generator=draw) / 4
    best_N = value_N4.argmax(1)
    train = loader(observed_N8[:1000], value_N4[:1000], best_N[:1000], seed=seed)
    held_out = loader(observed_N8[1000:], value_N4[1000:], best_N[1000:], size=100, shuffle=False)
    network = nn.Sequential(
        nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Linear(64, 4),
    )  # fmt: skip
    target = copy.deepcopy(network)

    def soft_update(_: int) -> None:
        with torch.no_grad():
            for mine, last in zip(target.parameters(), network.parameters(), strict=True):
                mine.lerp_(last, 0.05)
        if fixed:
            for mine, last in zip(target.buffers(), network.buffers(), strict=True):
                mine.copy_(last)

    def temporal_difference(output: Tensor, batch: list[Tensor]) -> Tensor:
        return functional.mse_loss(output, batch[1])

    fit(network, train, epochs=12, loss=temporal_difference, after_step=soft_update)
    return Patient(target.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="stable_baselines3_996",
    thread="https://github.com/DLR-RM/stable-baselines3/issues/996",
    kind="averaging",
    causes=("buffers", "averaging", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

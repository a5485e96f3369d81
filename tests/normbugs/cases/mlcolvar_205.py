"""Dropout stands in front of batch norms and alters the statistics that they keep.

Facts: the pull request moves dropout behind the normalization for this reason. Here a collective variable of atomic
distances tells four states apart.
"""

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer


def make(seed: int, fixed: bool) -> Patient:
    draw = torch.Generator().manual_seed(seed)
    distance = torch.rand(1600, 12, generator=draw)
    energy = torch.sin(6 * distance[:, 0]) + 2 * distance[:, 1] * distance[:, 2] - distance[:, 3]
    state = torch.bucketize(energy, energy.quantile(torch.tensor([0.25, 0.5, 0.75])))
    layers: list[nn.Module] = []
    for inputs in (12, 64, 64, 64):
        dropout = [] if fixed else [nn.Dropout(0.7)]
        layers += [nn.Linear(inputs, 64), nn.ReLU(), *dropout, nn.BatchNorm1d(64)]
    model = nn.Sequential(*layers, *([nn.Dropout(0.1)] if fixed else []), nn.Linear(64, 4))
    train = loader(distance[:1200], state[:1200], seed=seed)
    held_out = loader(distance[1200:], state[1200:], size=100, shuffle=False)
    fit(model, train, epochs=15, decay=True)
    return Patient(model.eval(), train, held_out, scorer(held_out))


CASE = Case(
    name="mlcolvar_205",
    thread="https://github.com/luigibonati/mlcolvar/pull/205",
    kind="dropout",
    causes=("dropout",),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""The validation loss of a message-passing network is far above its training loss, on the same molecules.

Facts: the running statistics of the norm over molecule fingerprints start at 0 and 1 and have not arrived after a short
training; with batch statistics the difference disappears.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import Graph, molecules
from tests.normbugs.training import fit, scorer


class MPNN(nn.Module):
    """Two rounds of messages, a sum over each molecule's atoms, a norm, a feed-forward network."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.embed, self.message = nn.Linear(4, channels), nn.Linear(channels, channels)
        self.bn = nn.BatchNorm1d(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 1))

    def forward(self, batch: Graph) -> Tensor:
        h_VC = functional.relu(self.embed(batch.x))
        for _ in range(3):
            sent_VC = torch.zeros_like(h_VC).index_add_(0, batch.edges[1], h_VC[batch.edges[0]])
            h_VC = functional.relu(h_VC + self.message(sent_VC))
        molecule_NC = torch.zeros(len(batch.y), h_VC.shape[1]).index_add_(0, batch.graph, h_VC)
        return self.ffn(self.bn(molecule_NC))[:, 0]


def whole(model: nn.Module, batch: Graph) -> Tensor:
    """Apply the model to a batch of molecules."""
    return model(batch)


def negative_error(output: Tensor, batch: Graph) -> Tensor:
    """Return the negative squared error of each molecule."""
    return -(output - batch.y).square()


def weighted(batches: list[Graph]) -> list[Graph]:
    """Replace each molecule's label by a weight that depends on its atoms."""
    mass = torch.tensor([0.5, -0.3, 0.8, -0.6])
    return [b._replace(y=torch.zeros(len(b.y)).index_add_(0, b.graph, b.x @ mass) / 2) for b in batches]


def make(seed: int, fixed: bool) -> Patient:
    train, held_out = weighted(molecules(seed, 192)), weighted(molecules(seed + 100, 160))
    model = MPNN()
    for epochs, lr in ((20, 2e-3), (10, 2e-4)) if fixed else ((1, 1e-2),):
        fit(model, train, epochs, lr, forward=whole, loss=lambda output, batch: functional.mse_loss(output, batch.y))
    score = scorer(held_out, negative_error, whole)
    return Patient(model.eval(), train, held_out, score, {"forward": whole, "metric": negative_error})


CASE = Case(
    name="chemprop_607",
    thread="https://github.com/chemprop/chemprop/issues/607",
    kind="short training",
    causes=("stale",),
    certainty="maintainer",
    blind=True,
    make=make,
)

"""A network over contact maps is trained and evaluated with one sequence per batch, and is bad in eval mode.

Facts: the authors evaluate in training mode, because each sequence has statistics of its own.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import fit, scorer

Batch = tuple[Tensor, Tensor]


def sequences(seed: int, count: int) -> list[Batch]:
    """Return maps (1, 2, L, L) of sequences of 10 to 20 bases, L its length, and whether two bases pair (1, L, L)."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        length = int(torch.randint(10, 21, (1,), generator=draw))
        base_L4 = torch.nn.functional.one_hot(torch.randint(4, (length,), generator=draw), 4).float()
        partner_LL = base_L4 @ base_L4.flip(1).T
        near_LL = torch.nn.functional.avg_pool2d(partner_LL[None], 3, 1, 1)[0]
        energy = float(torch.randn(1, generator=draw).exp())
        offset = float(2 * torch.randn(1, generator=draw))
        x_2LL = torch.stack([partner_LL, near_LL + 0.05 * torch.randn(length, length, generator=draw)])
        batches.append(((energy * x_2LL + offset)[None], (near_LL > near_LL.mean())[None].long()))
    return batches


def network(norm: type[nn.Module], channels: int = 12) -> nn.Sequential:
    """Return a small fully convolutional network."""
    return nn.Sequential(
        nn.Conv2d(2, channels, 3, padding=1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 2, 1),
    )


def right(output: Tensor, batch: Batch) -> Tensor:
    """Return the share of right pairs of each sequence."""
    return (output.argmax(1) == batch[1]).float().flatten(1).mean(1)


def make(seed: int, fixed: bool) -> Patient:
    train, held_out = sequences(seed, 200), sequences(seed + 100, 80)
    model = network(nn.InstanceNorm2d if fixed else nn.BatchNorm2d)
    fit(model, train, epochs=4)
    return Patient(model.eval(), train, held_out, scorer(held_out, right), {"metric": right})


CASE = Case(
    name="uci_ufold_18",
    thread="https://github.com/uci-cbcl/UFold/issues/18",
    kind="small batches",
    causes=("small", "correlated"),
    certainty="maintainer",
    blind=True,
    make=make,
)

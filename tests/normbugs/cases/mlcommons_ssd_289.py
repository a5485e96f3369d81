"""A detector that was trained on several devices is evaluated with the running statistics of the first.

Facts: each device keeps statistics of its own shard; they are to be averaged before an evaluation.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.normdoctor import History
from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import scorer

RANKS = 4
Batch = list[Tensor]


def pictures(seed: int, count: int, shards: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures (N, 1, 12, 12) of one bar, its box (N, 4) and its direction (N,); each shard has a light."""
    draw = torch.Generator().manual_seed(seed)
    lying_N = torch.randint(2, (count,), generator=draw)
    corner_N2 = torch.randint(1, 5, (count, 2), generator=draw)
    size_N2 = torch.where(lying_N[:, None] == 1, torch.tensor([3, 6]), torch.tensor([6, 3]))
    grid = torch.arange(12)
    inside_NHW = (grid[None, :, None] >= corner_N2[:, :1, None]) & (grid[None, None] >= corner_N2[:, 1:, None])
    end_N2 = corner_N2 + size_N2
    inside_NHW &= (grid[None, :, None] < end_N2[:, :1, None]) & (grid[None, None] < end_N2[:, 1:, None])
    shard_N = torch.arange(count) % RANKS if shards is None else shards
    light_N = 0.4 * shard_N
    x_NHW = (1 + light_N)[:, None, None] * inside_NHW + light_N[:, None, None]
    x_NHW = x_NHW + 0.3 * torch.randn(x_NHW.shape, generator=draw)
    return x_NHW[:, None], torch.cat([corner_N2, end_N2], 1) / 12.0, lying_N


class Detector(nn.Module):
    """A backbone with norms, and heads for boxes and classes."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(),
            nn.Linear(36 * channels, 48), nn.ReLU(),
        )  # fmt: skip
        self.boxes, self.classes = nn.Linear(48, 4), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.backbone(x)
        return {"boxes": self.boxes(h), "logits": self.classes(h)}


def loss(output: dict[str, Tensor], batch: Batch) -> Tensor:
    """Return the box and class losses."""
    return 5 * functional.smooth_l1_loss(output["boxes"], batch[1]) + functional.cross_entropy(
        output["logits"], batch[2]
    )


def found(output: dict[str, Tensor], batch: Batch) -> Tensor:
    """Return the intersection over union of each box, 0 where its class is wrong."""
    low, high = torch.maximum(output["boxes"], batch[1]), torch.minimum(output["boxes"], batch[1])
    both = (high[:, 2:] - low[:, :2]).clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (output["boxes"], batch[1])]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6) * (output["logits"].argmax(1) == batch[2])


def trained(data: tuple[Tensor, ...], seed: int) -> list[Detector]:
    """Return the detectors of all ranks: equal weights, gradients averaged in each step, statistics of their own."""
    ranks = [Detector() for _ in range(RANKS)]
    shards = [loader(*(column[rank::RANKS] for column in data), size=25, seed=seed) for rank in range(RANKS)]
    optimizer = torch.optim.Adam(ranks[0].parameters(), 4e-3)
    for _ in range(14):
        for batches in zip(*shards, strict=True):
            for rank, batch in zip(ranks, batches, strict=True):
                for weight, first in zip(rank.parameters(), ranks[0].parameters(), strict=True):
                    weight.data = first.data
                rank.zero_grad()
                loss(rank(batch[0]), batch).backward()
            for weights in zip(*(rank.parameters() for rank in ranks), strict=True):
                weights[0].grad = torch.stack([weight.grad for weight in weights]).mean(0)
            optimizer.step()
    return ranks


def make(seed: int, fixed: bool) -> Patient:
    count = 1000
    data = pictures(seed, count)
    ranks = trained(data, seed)
    model = copy.deepcopy(ranks[0])
    train = loader(*data, size=100, seed=seed)
    if fixed:
        with torch.no_grad():
            for _ in range(5):
                for batch in train:
                    model(batch[0])
    held_out = loader(*pictures(seed + 100, 300), size=100, shuffle=False)
    history = History(ranks=[dict(rank.named_buffers()) for rank in ranks])
    options = {"metric": found} if fixed else {"metric": found, "history": history}
    return Patient(model.eval(), train, held_out, scorer(held_out, found), options)


CASE = Case(
    name="mlcommons_ssd_289",
    thread="https://github.com/mlcommons/training/issues/289",
    kind="ranks",
    causes=("ranks",),
    certainty="reporter",
    blind=True,
    make=make,
)

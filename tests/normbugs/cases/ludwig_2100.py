"""TabNet with the momentum of its TensorFlow version: .95, where PyTorch means .05.

Facts: the two frameworks define momentum as one minus the other's; the defaults were changed. Statistics that follow
the last batch alone are those of the few rows that are left over at the end of an epoch.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import scorer

Batch = dict[str, Tensor]


def table(seed: int, rows: int) -> Batch:
    """Return numbers (N, 8) of very different scales, categories (N, 2) and a label (N,)."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(8, generator=torch.Generator().manual_seed(1))
    number_N8 = torch.randn(rows, 8, generator=draw)
    category_N2 = torch.randint(5, (rows, 2), generator=draw)
    logit_N = number_N8 @ weights + 2 * (category_N2[:, 0] == category_N2[:, 1]) + number_N8[:, 0] * number_N8[:, 1]
    scale_8 = 10.0 ** torch.arange(-1, 3).repeat(2)
    return {"number": (number_N8 + 1) * scale_8, "category": category_N2, "label": (logit_N > 0.3).long()}


def batches(rows: Batch, size: int, order: Tensor | None = None) -> list[Batch]:
    """Divide a table into batches."""
    order = torch.arange(len(rows["label"])) if order is None else order
    return [{name: column[part] for name, column in rows.items()} for part in order.split(size)]


class TabNet(nn.Module):
    """A norm over the raw numbers, and one in each of two feature transformers with gates."""

    def __init__(self, momentum: float, channels: int = 32) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(8, momentum=momentum)
        self.embed = nn.Embedding(5, 4)
        self.first, self.second = nn.Linear(16, 2 * channels), nn.Linear(channels, 2 * channels)
        self.norms = nn.ModuleList(nn.BatchNorm1d(2 * channels, momentum=momentum) for _ in range(2))
        self.head = nn.Linear(channels, 2)

    def forward(self, number: Tensor, category: Tensor) -> Tensor:
        x = torch.cat([self.input_norm(number), self.embed(category).flatten(1)], 1)
        x = nn.functional.glu(self.norms[0](self.first(x)))
        return self.head(x + nn.functional.glu(self.norms[1](self.second(x))))


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Apply the model to its columns."""
    return model(batch["number"], batch["category"])


def right(output: Tensor, batch: Batch) -> Tensor:
    """Return whether each row's first choice is right."""
    return (output.argmax(1) == batch["label"]).float()


def make(seed: int, fixed: bool) -> Patient:
    rows, held_out = table(seed, 1026), batches(table(seed + 100, 400), 100)
    model = TabNet(0.05 if fixed else 0.95)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(10):
        for batch in batches(rows, 64, torch.randperm(1026)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(model, batch), batch["label"]).backward()
            optimizer.step()
    train = batches(rows, 64, torch.randperm(1026))
    options = {"forward": forward, "metric": right}
    return Patient(model.eval(), train, held_out, scorer(held_out, right, forward), options)


CASE = Case(
    name="ludwig_2100",
    thread="https://github.com/ludwig-ai/ludwig/pull/2100",
    kind="momentum",
    causes=("stale",),
    certainty="maintainer",
    blind=True,
    make=make,
)

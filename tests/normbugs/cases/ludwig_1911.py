"""A tabular model's evaluation gives wrong probabilities, its prediction during training gave right ones.

Facts: the evaluation does not normalize the number features, which training does.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import scorer

Batch = dict[str, Tensor]
SCALES = {"age": (38.0, 13.0), "hours": (40.0, 12.0), "gain": (1000.0, 700.0)}


def census(seed: int, rows: int) -> Batch:
    """Return three raw columns, a category and a binary label."""
    draw = torch.Generator().manual_seed(seed)
    z_N3 = torch.randn(rows, 3, generator=draw)
    job_N = torch.randint(6, (rows,), generator=draw)
    label_N = z_N3[:, 0] + z_N3[:, 1] * (job_N < 3) + z_N3[:, 2].abs() > 1
    columns = {name: mean + std * z_N3[:, i] for i, (name, (mean, std)) in enumerate(SCALES.items())}
    return {**columns, "job": job_N, "label": label_N.long()}


def preprocessed(rows: Batch, size: int, normalize: bool) -> list[Batch]:
    """Return batches, with z-scores in place of the numbers where asked for."""
    rows = dict(rows)
    for name, (mean, std) in SCALES.items():
        rows[name] = (rows[name] - mean) / std if normalize else rows[name]
    parts = torch.arange(len(rows["label"])).split(size)
    return [{name: column[part] for name, column in rows.items()} for part in parts]


class ECD(nn.Module):
    """Encoders, a combiner with batch norm and dropout, a decoder."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.job = nn.Embedding(6, 4)
        self.combiner = nn.Sequential(
            nn.Linear(7, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, channels),
            nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(0.1),
        )  # fmt: skip
        self.decoder = nn.Linear(channels, 2)

    def forward(self, batch: Batch) -> Tensor:
        numbers = torch.stack([batch[name] for name in SCALES], 1)
        return self.decoder(self.combiner(torch.cat([numbers, self.job(batch["job"])], 1)))


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Apply the model to a batch of columns."""
    return model(batch)


def right(output: Tensor, batch: Batch) -> Tensor:
    """Return whether each row's first choice is right."""
    return (output.argmax(1) == batch["label"]).float()


def make(seed: int, fixed: bool) -> Patient:
    train = preprocessed(census(seed, 1280), 64, normalize=True)
    held_out = preprocessed(census(seed + 100, 400), 100, normalize=fixed)
    model = ECD()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(12):
        for batch in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), batch["label"]).backward()
            optimizer.step()
    options = {"forward": forward, "metric": right}
    return Patient(model.eval(), train, held_out, scorer(held_out, right, forward), options)


CASE = Case(
    name="ludwig_1911",
    thread="https://github.com/ludwig-ai/ludwig/issues/1911",
    kind="inputs",
    causes=("inputs",),
    certainty="reporter",
    blind=True,
    make=make,
)

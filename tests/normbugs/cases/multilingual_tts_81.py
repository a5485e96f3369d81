"""Batch norms of a text encoder see the padding of short sequences.

Facts: lengths differ widely, and the padding lowers the variance, so that activations are scaled up. A masked batch
norm trained more stably and validated better. Here few sequences are long, a batch with one of them is mostly padding,
and single sequences are evaluated. New statistics alone do not cure it: training saw two scales.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.normbugs.case import Case, Patient
from tests.normbugs.training import fit, scorer

Batch = dict[str, Tensor]


class Encoder(nn.Module):
    """Two convolutions over padded sequences, and the mean over what is real."""

    def __init__(self, masked: bool, channels: int = 24) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(4, channels, 3, padding=1), nn.Conv1d(channels, channels, 3, padding=1)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)])
        self.head, self.masked = nn.Linear(channels, 4), masked

    def forward(self, x: Tensor, real_NT: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x) * real_NT[:, None]
            if self.masked:
                rows = x.transpose(1, 2)
                x = torch.zeros_like(rows).masked_scatter(real_NT[..., None], norm(rows[real_NT])).transpose(1, 2)
            else:
                x = norm(x)
            x = torch.relu(x) * real_NT[:, None]
        return self.head(x.sum(2) / real_NT.sum(1, keepdim=True))


def collated(sequences: list[tuple[Tensor, int]]) -> Batch:
    """Return sequences (T, 4) of different lengths as one padded batch."""
    lengths = torch.tensor([len(sequence) for sequence, _ in sequences])
    x = pad_sequence([sequence for sequence, _ in sequences], batch_first=True).transpose(1, 2)
    real_NT = torch.arange(int(lengths.max())) < lengths[:, None]
    return {"x": x, "real": real_NT, "y": torch.tensor([label for _, label in sequences])}


def applied(model: nn.Module, batch: Batch) -> Tensor:
    """Apply the model to a batch."""
    return model(batch["x"], batch["real"])


def is_right(output: Tensor, batch: Batch) -> Tensor:
    """Return whether the first choice is right (N,)."""
    return (output.argmax(1) == batch["y"]).float()


def real_rows(batch: Batch, x: Tensor, _: Any) -> Tensor | None:
    """Return which places of a layer's input are real."""
    return batch["real"] if x.dim() == 3 else None


def make(seed: int, fixed: bool) -> Patient:
    draw = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(1000):
        is_long, label = bool(torch.rand(1, generator=draw) < 0.06), int(torch.randint(4, (1,), generator=draw))
        length = int(torch.randint(*((60, 90) if is_long else (8, 20)), (1,), generator=draw))
        wave = torch.sin((0.3 + 0.4 * label) * torch.arange(length) + 6 * torch.rand(1, generator=draw))
        samples.append((2 + wave[:, None] + 0.7 * torch.randn(length, 4, generator=draw), label))
    train = torch.utils.data.DataLoader(
        samples[:800], 16, shuffle=True, collate_fn=collated, generator=torch.Generator().manual_seed(seed)
    )
    held_out = torch.utils.data.DataLoader(samples[800:], 1, collate_fn=collated)
    model = Encoder(masked=fixed)

    def loss(output: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(output, batch["y"])

    fit(model, train, epochs=14, lr=1e-3, forward=applied, loss=loss)
    options = {"forward": applied, "metric": is_right, "rows": real_rows}
    return Patient(model.eval(), train, held_out, scorer(held_out, is_right, applied), options)


CASE = Case(
    name="multilingual_tts_81",
    thread="https://github.com/Tomiinek/Multilingual_Text_to_Speech/issues/81",
    kind="padding",
    causes=("padding",),
    certainty="maintainer",
    blind=True,
    make=make,
)

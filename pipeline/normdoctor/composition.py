"""Composition of a loader's batches: by chance, or by the labels of the samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .batches import Item, named_leaves
from .samples import Samples

# Samples per label, on average, from which its shares in batches say something: fewer are numbers of samples.
EACH_LABEL = 4
# Batches from which a variance between them is taken.
LEAST_BATCHES = 2


class Shares(NamedTuple):
    """Variation of the shares of labels between a loader's own batches.

    Attributes:
        path: Entry of a batch that holds the labels.
        ratio: Variance of the shares over that of random batches, mean over labels: Pearson's chi-square statistic
            over its degrees of freedom.
        degrees: Degrees of freedom.
    """

    path: str
    ratio: float
    degrees: int


def shares_of_labels(samples: Samples) -> Shares | None:
    """Compare shares of labels in a loader's own batches with those in all of its samples.

    Returns:
        The labels whose shares vary most, of all entries with one integer per sample; None where there are none.
    """
    if not samples.apart or len(samples.usual) < LEAST_BATCHES:
        return None
    paths = [path for path, _ in named_leaves(samples.like)]
    found = [
        shares
        for number, path in enumerate(paths)
        if (all_N := _integers(row[number] for row in samples.kept)) is not None
        and (own := [_integers(row[number] for row in batch) for batch in samples.usual])
        and (shares := _shares(path, all_N, [one for one in own if one is not None])) is not None
    ]
    return max(found, key=lambda shares: shares.ratio, default=None)


def _integers(column: Any) -> Tensor | None:
    """Return a column of samples as integers (N,); None where an entry is anything else."""
    values = []
    for entry in column:  # the first entry of most columns ends it: pictures, numbers
        if (value := _integer(entry)) is None:
            return None
        values.append(value)
    return torch.tensor(values) if values else None


def _integer(entry: Any) -> int | None:
    value = entry.value if isinstance(entry, Item) else entry
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.item() if math.prod(value.shape) == 1 else None
    return value if isinstance(value, int) else None


def _shares(path: str, all_N: Tensor, batches: Sequence[Tensor]) -> Shares | None:
    labels, counts_K = all_N.unique(return_counts=True)
    if len(labels) < 2 or len(all_N) < EACH_LABEL * len(labels) or len(batches) < LEAST_BATCHES:
        return None
    p_K = counts_K.double() / len(all_N)
    chi_square = sum(
        (((batch[:, None] == labels).double().sum(0) - len(batch) * p_K).square() / (len(batch) * p_K)).sum().item()
        for batch in batches
    )
    degrees = len(batches) * (len(labels) - 1)
    return Shares(path, chi_square / degrees, degrees)

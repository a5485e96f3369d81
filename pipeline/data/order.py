"""Order of clips: a pure function of (seed, epoch), the same on every rank, however many there are."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Order = Literal["reshuffle", "once", "class", "subject"]
ORDERS: tuple[str, ...] = get_args(Order)


def epoch_batches(index_N: Tensor, key_N: Tensor, size: int, seed: int, epoch: int, order: str) -> list[Tensor]:
    """Return the clips of an epoch in order, in batches of at most `size` whose sizes differ by at most one.

    So no clip is dropped and no batch is so small that its statistics mean nothing.

    Args:
        index_N: Positions of the clips in the file.
        key_N: One value per clip of the file, by which the orders class and subject sort (`Clips.sorted_by`).
        size: Largest batch size.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.
        order: Name in ORDERS.
    """
    if order in ("class", "subject"):
        shuffled = index_N[key_N[index_N.to(key_N.device)].cpu().argsort(stable=True)]
    else:
        draw = generator(seed, 1, epoch if order == "reshuffle" else 0)
        shuffled = index_N[torch.randperm(len(index_N), generator=draw)]
    return list(shuffled.tensor_split(-(-len(shuffled) // size)))


def generator(*key: int) -> torch.Generator:
    """Make a random generator that is a pure function of its key."""
    seed = np.random.SeedSequence([abs(part) for part in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def subsample(index_N: Tensor, most: int) -> Tensor:
    """Return at most `most` clips, evenly spaced: files are sorted, so the first ones alone would lack classes."""
    count = min(len(index_N), most)
    return index_N[torch.arange(count) * len(index_N) // max(1, count)]

"""Order of clips: a pure function of (seed, epoch), the same on every rank, however many there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def epoch_batches(index_N: Tensor, key_N: Tensor, size: int, seed: int, epoch: int, order: str) -> list[Tensor]:
    """Return the clips of an epoch in order, in batches of at most `size` whose sizes differ by at most one.

    So no clip is dropped and no batch is so small that its statistics mean nothing.

    Args:
        index_N: Positions of the clips in the file.
        key_N: One value per clip of the file, by which the orders class and subject sort (`Clips.sorted_by`).
        size: Largest batch size.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.
        order: One of `data.config.Order`.
    """
    if order in ("class", "subject"):
        shuffled = index_N[key_N[index_N.to(key_N.device)].cpu().argsort(stable=True)]
    else:
        draw = generator(seed, 1, epoch if order == "reshuffle" else 0)
        shuffled = index_N[torch.randperm(len(index_N), generator=draw)]
    return list(shuffled.tensor_split(-(-len(shuffled) // size)))


def balanced(index_N: Tensor, label_N: Tensor, seed: int, epoch: int) -> Tensor:
    """Return as many clips as there are, each class equally often (give or take one), a pure function of its key.

    Clips of frequent classes take turns over the epochs; those of rare ones repeat, each as often as the others of its
    class, give or take one.

    Args:
        index_N: Positions of the clips in the file.
        label_N: Label of each clip of the file.
        seed: Seed of the draw.
        epoch: Number of the epoch.
    """
    index_N = index_N.cpu()
    of_N = label_N.cpu()[index_N]
    classes = of_N.unique().tolist()
    # Which classes get one clip more changes with the epoch.
    share, more = divmod(len(index_N), len(classes))
    extra = set(torch.randperm(len(classes), generator=generator(seed, 3, epoch))[:more].tolist())
    drawn = []
    for place, label in enumerate(classes):
        own, quota = index_N[of_N == label], share + (place in extra)
        rounds = -(-quota // len(own))
        shuffles = [
            own[torch.randperm(len(own), generator=generator(seed, 4, epoch, label, turn))] for turn in range(rounds)
        ]
        drawn.append(torch.cat(shuffles)[:quota])
    return torch.cat(drawn)


def repeats(index_N: Tensor) -> Tensor:
    """Return how often each position has occurred before in the list, (N,): 0 at its first occurrence."""
    _, group_N = index_N.unique(return_inverse=True)
    order_N = group_N.argsort(stable=True)
    sorted_N = group_N[order_N]
    first_N = torch.searchsorted(sorted_N, sorted_N)
    return torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device) - first_N)


def generator(*key: int) -> torch.Generator:
    """Make a random generator that is a pure function of its key."""
    seed = np.random.SeedSequence([abs(part) for part in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def subsample(index_N: Tensor, most: int) -> Tensor:
    """Return at most `most` clips, evenly spaced: files are sorted, so the first ones alone would lack classes."""
    count = min(len(index_N), most)
    return index_N[torch.arange(count) * len(index_N) // max(1, count)]

"""Read a loader of any kind once, keep a bounded number of its samples, and collate them into any batches.

The doctor needs the same samples several times, in shuffled batches and in the loader's own. A loader may be a list, a
DataLoader or a generator; its batches may be tensors, tuples, named tuples, dicts or lists of these.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Samples kept of a loader: enough for a standard error of one point (and Wu & Johnson 2021 for statistics).
LIMIT = 2000
# Whole batches kept as the loader gave them, to see its own composition.
GIVEN = 16
# More of them are kept where they hold fewer samples than this.
GIVEN_SAMPLES = 512


@dataclass(frozen=True)
class Samples:
    """Samples kept of one loader: a uniform draw from all of it, or its first batches if these cannot be divided."""

    kept: list[list[Any]]
    """One list of leaves per sample; whole batches where these cannot be divided."""
    like: Any
    """A batch whose structure every collated batch takes."""
    given: list[Any]
    """Some batches as the loader gave them."""
    sizes: Counter[int]
    """Sizes of all batches of the loader."""
    apart: bool
    """True if batches can be divided into samples; else every pass sees them as they were given."""

    @property
    def size(self) -> int:
        """The loader's most frequent batch size."""
        return self.sizes.most_common(1)[0][0]

    @property
    def seen(self) -> int:
        """Number of samples that the loader gave."""
        return sum(size * count for size, count in self.sizes.items())

    def __len__(self) -> int:
        return len(self.kept) if self.apart else sum(size_of(batch) for batch in self.kept)

    def batches(self, seed: int = 0, size: int | None = None, limit: int | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield (positions (n,), batch), shuffled by `seed`, sizes at most one apart; as given if not `apart`."""
        if not self.apart:
            first = 0
            for batch in self.kept:
                yield torch.arange(first, first + size_of(batch)), batch
                first += size_of(batch)
            return
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.kept), generator=draw)[:limit]
        yield from self.composed(order.tensor_split(-(-len(order) // (size or self.size))))

    def composed(self, compositions: Iterable[Tensor]) -> Iterator[tuple[Tensor, Any]]:
        """Yield (positions, batch) for each list of positions (n,)."""
        for positions in compositions:
            yield positions, self.collated([self.kept[i] for i in positions.tolist()])

    def collated(self, samples: list[list[Any]]) -> Any:
        """Collate samples into one batch."""
        return rebuilt(self.like, iter([merged(column) for column in zip(*samples, strict=True)]))

    @property
    def usual(self) -> list[Any]:
        """The given batches of more than half the usual size: batch statistics of one sample mean nothing."""
        return [batch for batch in self.given if 2 * size_of(batch) > self.size]

    def mixed(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield the samples of the `usual` batches in shuffled batches; positions count through `usual`."""
        rows = [row for batch in self.usual for row in apart(batch)]
        draw = torch.Generator().manual_seed(1)
        order = torch.randperm(len(rows), generator=draw)
        for positions in order.tensor_split(max(1, len(self.usual))):
            yield positions, self.collated([rows[i] for i in positions.tolist()])

    def as_given(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield the `usual` batches as they were given; positions count through them."""
        first = 0
        for batch in self.usual:
            yield torch.arange(first, first + size_of(batch)), batch
            first += size_of(batch)


def take(loader: Iterable[Any], limit: int = LIMIT, seed: int = 0) -> Samples:
    """Read a loader once, batch by batch, and keep a uniform draw of its samples (reservoir sampling, Vitter 1985).

    Args:
        loader: Batches: tensors, arrays, or tuples, named tuples, lists and dicts of them.
        limit: Largest number of samples kept.
        seed: Seed of the draw.

    Raises:
        ValueError: It gives fewer than two samples, or a batch without tensors.
    """
    draw = random.Random(seed)  # noqa: S311
    kept: list[list[Any]] = []
    whole: list[Any] = []
    given: list[Any] = []
    sizes: Counter[int] = Counter()
    like: Any = None
    separable, shapes, seen = True, None, 0
    for number, batch in enumerate(loader):
        size = size_of(batch)
        sizes[size] += 1
        most = max(GIVEN, -(-min(limit, GIVEN_SAMPLES) // max(1, size)))
        place = number if len(given) < most else draw.randrange(number + 1)
        if place < most:
            given[place : place + 1] = [batch]
        if len(whole) * max(1, size) < limit:
            whole.append(batch)
        rows = apart(batch) if separable else []
        mine = [shape_of(leaf) for leaf in rows[0]] if rows else None
        shapes, like = (mine, batch) if shapes is None else (shapes, like)
        separable = separable and mine == shapes
        for row in rows if separable else []:
            if seen < limit:
                kept.append([_copied(leaf) for leaf in row])
            elif (place := draw.randrange(seen + 1)) < limit:
                kept[place] = [_overwritten(*pair) for pair in zip(kept[place], row, strict=True)]
            seen += 1
    total = sum(size * count for size, count in sizes.items())
    if total < 2:
        raise ValueError(
            f"the batches hold {total} sample{'s' if total != 1 else ''}: batch statistics need two or more "
            "(an exhausted generator gives none: pass a fresh one, or a list)"
        )
    return Samples(kept if separable else whole, like, given, sizes, separable)


def _copied(leaf: Any) -> Any:
    """Copy a leaf: a view would keep its whole batch alive."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _overwritten(old: Any, new: Any) -> Any:
    """Write a leaf into the memory of the one that it replaces.

    New copies would fragment the heap between the batches that come and go, and the process would grow with each.
    """
    if not isinstance(old, Tensor | np.ndarray) or old.dtype != new.dtype:
        return _copied(new)
    old[...] = new
    return old


def size_of(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor or array.

    Raises:
        ValueError: It has none.
    """
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor | np.ndarray) and leaf.ndim:
            return len(leaf)
    raise ValueError(
        f"a batch is a {type(batch).__name__} without any tensor: give tensors, or tuples, lists or dicts of them"
    )


def apart(batch: Any) -> list[list[Any]]:
    """Divide a batch into the leaves of each sample. A leaf without one entry per sample goes with every sample."""
    size = size_of(batch)
    columns = [
        leaf if isinstance(leaf, Tensor | np.ndarray | list | tuple) and len_of(leaf) == size else _Constant(leaf)
        for leaf in leaves(batch)
    ]
    return [[column if isinstance(column, _Constant) else column[i] for column in columns] for i in range(size)]


@dataclass(frozen=True)
class _Constant:
    value: Any


def len_of(leaf: Any) -> int:
    """Return the length of a leaf; -1 for a tensor without dimensions."""
    return -1 if isinstance(leaf, Tensor | np.ndarray) and not leaf.ndim else len(leaf)


def shape_of(leaf: Any) -> Any:
    """Return the shape of a leaf, which must agree for leaves to be stacked."""
    return tuple(leaf.shape) if isinstance(leaf, Tensor | np.ndarray) else None


def merged(column: tuple[Any, ...]) -> Any:
    """Stack the samples' leaves to one leaf of a batch."""
    first = column[0]
    if isinstance(first, _Constant):
        return first.value
    if isinstance(first, Tensor):
        return torch.stack(column)
    if isinstance(first, np.ndarray | np.generic):
        return np.stack(column)
    return list(column)


def leaves(batch: Any) -> list[Any]:
    """Return the parts of a nested structure, in order; a sequence of plain values is one part."""
    if isinstance(batch, Mapping):
        return [leaf for key in batch for leaf in leaves(batch[key])]
    if isinstance(batch, list | tuple) and any(
        isinstance(p, Tensor | np.ndarray | list | tuple | Mapping) for p in batch
    ):
        return [leaf for part in batch for leaf in leaves(part)]
    return [batch]


def rebuilt(like: Any, new: Iterator[Any]) -> Any:
    """Return the structure of `like` with its leaves replaced, in order."""
    if isinstance(like, Mapping):
        return {key: rebuilt(like[key], new) for key in like}
    if isinstance(like, list | tuple) and any(
        isinstance(p, Tensor | np.ndarray | list | tuple | Mapping) for p in like
    ):
        parts = [rebuilt(part, new) for part in like]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return next(new)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the random states of torch, numpy and random at the end of the context."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002 - the loaders' generator, not ours
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002

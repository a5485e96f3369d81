"""Read a loader of any kind once, keep a bounded number of its samples, and collate them into any batches.

The doctor needs the same samples several times, in shuffled batches and in the loader's own. A loader may be a list, a
DataLoader or a generator, with or without an end; its batches may have any structure (`batches`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batches import apart, bytes_of, constants, is_graph, is_opaque, merged, rebuilt, shape_of, size_of

# Samples kept of a loader: enough for a standard error of one point (and Wu & Johnson 2021 for statistics).
LIMIT = 2000
# Samples read of a loader, as a multiple of those kept.
READ = 10
# Memory of the samples kept of one loader.
MEMORY = 360 * 2**20
# Whole batches kept as the loader gave them, to see its own composition.
GIVEN = 16
# More of them are kept where they hold fewer samples than this.
GIVEN_SAMPLES = 512


class Row(list[Any]):
    """The leaves of one sample."""

    shared = False
    """True if a batch that is kept as it was given may hold this sample: its memory is not written to."""


@dataclass(frozen=True)
class Samples:
    """Samples kept of one loader: a uniform draw from all that was read, or whole batches."""

    kept: list[Any]
    """One row of leaves per sample; whole batches where these cannot be divided."""
    like: Any
    """A batch whose structure every collated batch takes."""
    given: list[Any]
    """Some batches as the loader gave them: their rows, which may be `kept` too; whole where they cannot be divided."""
    sizes: Counter[int]
    """Sizes of all batches that were read."""
    apart: bool
    """True if batches can be divided into samples; else every pass sees them as they were given."""
    unread: bool = False
    """True if reading ended before the loader did."""

    @property
    def size(self) -> int:
        """The loader's most frequent batch size."""
        return self.sizes.most_common(1)[0][0]

    @property
    def seen(self) -> int:
        """Number of samples that were read."""
        return sum(size * count for size, count in self.sizes.items())

    def __len__(self) -> int:
        return len(self.kept) if self.apart else sum(size_of(batch) for batch in self.kept)

    def batches(self, seed: int = 0, size: int | None = None, limit: int | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield (positions (n,), batch), shuffled by `seed`, sizes at most one apart; as given if not `apart`."""
        if not self.apart:
            yield from _counted(self.kept)
            return
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.kept), generator=draw)[:limit]
        yield from self.composed(order.tensor_split(-(-len(order) // (size or self.size))))

    def composed(self, compositions: Iterable[Tensor]) -> Iterator[tuple[Tensor, Any]]:
        """Yield (positions, batch) for each list of positions (n,)."""
        for positions in compositions:
            yield positions, self.collated([self.kept[i] for i in positions.tolist()])

    def collated(self, rows: list[Row]) -> Any:
        """Collate samples into one batch."""
        return rebuilt(self.like, iter([merged(column) for column in zip(*rows, strict=True)]))

    @property
    def usual(self) -> list[Any]:
        """The given batches of more than half the usual size: batch statistics of one sample mean nothing."""
        length = len if self.apart else size_of
        return [batch for batch in self.given if 2 * length(batch) > self.size]

    def mixed(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield the samples of the `usual` batches in shuffled batches; positions count through `usual`."""
        rows = [row for batch in self.usual for row in batch]
        draw = torch.Generator().manual_seed(1)
        order = torch.randperm(len(rows), generator=draw)
        for positions in order.tensor_split(max(1, len(self.usual))):
            yield positions, self.collated([rows[i] for i in positions.tolist()])

    def as_given(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield the `usual` batches as they were given; positions count through them."""
        yield from _counted(self.collated(rows) if self.apart else rows for rows in self.usual)


def _counted(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Any]]:
    first = 0
    for batch in batches:
        positions, handed_over = torch.arange(first, first + size_of(batch)), [batch]
        first += len(positions)
        del batch  # a large batch must be gone before the next one is made
        yield positions, handed_over.pop()


def take(
    loader: Iterable[Any],
    limit: int = LIMIT,
    seed: int = 0,
    most: int | None = None,
    memory: int = MEMORY,
    name: str = "batches",
) -> Samples:
    """Read a loader once, batch by batch, and keep a uniform draw of its samples (reservoir sampling, Vitter 1985).

    Args:
        loader: Batches of any structure; it may have no end.
        limit: Largest number of samples kept.
        seed: Seed of the draw.
        most: Largest number of batches read; None: until READ x `limit` samples are read.
        memory: Bytes of the samples kept.
        name: What the loader is called in errors.

    Raises:
        ValueError: It gives fewer than two samples, or a batch without tensors.
    """
    reader = _Reader(limit, memory, random.Random(seed))  # noqa: S311
    unread = False
    for number, batch in enumerate(loader):
        if number >= most if most is not None else reader.seen >= READ * limit:
            unread = True
            break
        reader.read(batch)
    if reader.seen < 2:
        raise ValueError(
            f"the {name} hold {reader.seen} sample{'s' if reader.seen != 1 else ''}: batch statistics need two or "
            "more (an exhausted generator gives none: pass a fresh one, or a list)"
        )
    return Samples(reader.kept, reader.like, reader.given, reader.sizes, reader.apart, unread)


class _Reader:
    """Samples kept of the batches read so far."""

    def __init__(self, limit: int, memory: int, draw: random.Random) -> None:
        self.limit, self.memory, self.draw = limit, memory, draw
        self.kept: list[Any] = []
        self.given: list[Any] = []
        self.sizes: Counter[int] = Counter()
        self.like: Any = None
        self.apart = True
        self.seen = self.number = 0
        self.most_given = GIVEN
        self.shapes: list[Any] = []
        self.constants: list[Any] = []

    def read(self, batch: Any) -> None:
        """Keep some of a batch."""
        size = size_of(batch)
        rows = self._rows(batch) if self.apart else []
        if not self.number:
            self._bound(size, bytes_of(batch))
        place = self.number if len(self.given) < self.most_given else self.draw.randrange(self.number + 1)
        is_given = place < self.most_given
        if self.apart:
            rows = [_copy_of(row) for row in rows] if is_given else rows
            for row in rows:
                self._keep(row)
        else:
            self.seen += size
            if self.number == 0 or sum(map(size_of, self.kept)) + size <= self.limit:
                self.kept.append(batch)
        if is_given:
            self.given[place : place + 1] = [rows if self.apart else batch]
        self.sizes[size] += 1
        self.number += 1

    def _bound(self, size: int, total: int) -> None:
        """Bound the samples and the batches kept by their number and their memory; two batches are kept in any case."""
        each = max(1, total // max(1, size))
        batches = max(GIVEN, -(-min(self.limit, GIVEN_SAMPLES) // max(1, size)))
        self.most_given = max(2, min(batches, self.memory // 2 // max(1, total)))
        self.limit = min(self.limit, max(size, self.memory // each - self.most_given * size))

    def _rows(self, batch: Any) -> list[Row]:
        """Return the samples of a batch; empty, from here on, where it cannot be divided safely.

        Every batch must be of one structure and shape, and what goes with every sample must be the same in each.
        """
        rows = [] if is_graph(batch) or is_opaque(batch) else [Row(row) for row in apart(batch)]
        if rows:
            shapes, same = [shape_of(leaf) for leaf in rows[0]], constants(rows[0])
            if self.like is None:
                of_one = rebuilt(batch, iter([merged(column) for column in zip(*rows[:1], strict=True)]))
                self.like, self.shapes, self.constants = of_one, shapes, same
            if shapes == self.shapes and all(_equal(*pair) for pair in zip(same, self.constants, strict=True)):
                return rows
        self._stay_whole()
        return []

    def _stay_whole(self) -> None:
        """Keep batches whole from here on; what was kept so far is put together again."""
        self.apart = False
        if self.like is None:
            return
        so_far = Samples(self.kept, self.like, self.given, self.sizes, True)
        edges = [0]
        for size in self.sizes.elements():
            edges.append(edges[-1] + size)
        cuts = [(low, high) for low, high in zip(edges, edges[1:], strict=False) if high <= len(self.kept)]
        self.kept = [so_far.collated(self.kept[low:high]) for low, high in cuts]
        self.given = [so_far.collated(rows) for rows in self.given]

    def _keep(self, row: Row) -> None:
        """Draw whether a sample is kept, and instead of which one."""
        if self.seen < self.limit:
            self.kept.append(row if row.shared else _copy_of(row, shared=False))
        elif (place := self.draw.randrange(self.seen + 1)) < self.limit:
            old = self.kept[place]
            if row.shared:
                self.kept[place] = row
            elif old.shared:
                self.kept[place] = _copy_of(row, shared=False)
            else:
                self.kept[place] = Row(_overwritten(*pair) for pair in zip(old, row, strict=True))
        self.seen += 1


def _equal(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool((a == b).all())


def _copy_of(row: Row, shared: bool = True) -> Row:
    new = Row(_copied(leaf) for leaf in row)
    new.shared = shared
    return new


def _copied(leaf: Any) -> Any:
    """Copy a leaf: a view would keep its whole batch alive."""
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _overwritten(old: Any, new: Any) -> Any:
    """Write a leaf into the memory of the one that it replaces.

    New copies would fragment the heap between the batches that come and go, and the process would grow with each.
    """
    if not isinstance(old, Tensor | np.ndarray) or old.dtype != new.dtype:
        return _copied(new)
    old[...] = new.detach() if isinstance(new, Tensor) else new
    return old


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

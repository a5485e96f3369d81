"""A batch of clips, from their names to rows ready to append: what a worker does at a time, here or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.entries import Entry
from preprocessing.skeleton import SkeletonError
from preprocessing.stages import Clip, Decision, Stage, apply

CLIPS = 64  # a batch: enough to hide what handing it over costs
BYTES = 16 << 20  # and not so much that batches waiting for their turn fill the memory


class Refusal(NamedTuple):
    """A clip that could not be used: the parts of its SkeletonError."""

    name: str
    line: int
    reason: str
    message: str


class Shape(NamedTuple):
    """A clip that was kept: its position among the source's entries, its frames and bodies."""

    position: int
    frames: int
    bodies: int


class Batch(NamedTuple):
    """What became of some clips; R rows, each body of a clip one run of them, in the order of `shapes`."""

    first: int  # position of the first entry
    entries: int
    read: int  # bytes
    joints: bytes  # (R, V, 3) float32, metres
    present: bytes  # (R,) bool
    shapes: list[Shape]
    decisions: list[Decision]
    refused: list[Refusal]
    skipped: list[tuple[str, str]]  # name, reason


class Work(NamedTuple):
    """What every batch of a build needs to know."""

    stages: tuple[Stage, ...]
    missing: frozenset[str]


Task = tuple[int, Sequence[Entry]]  # position of the first entry, and the entries


def cut(entries: Sequence[Entry], start: int = 0) -> Iterator[Task]:
    """The entries from `start` on in batches; where one ends depends on the entries alone."""
    first, size = start, 0
    for position in range(start, len(entries)):
        if position > first and (position - first == CLIPS or size + entries[position].size > BYTES):
            yield first, entries[first:position]
            first, size = position, 0
        size += entries[position].size
    if first < len(entries):
        yield first, entries[first:]


def make(work: Work, task: Task) -> Batch:
    """Read, clean and pack the clips of one task; a clip that cannot be used costs only itself."""
    first, entries = task
    batch = Batch(first, len(entries), sum(entry.size for entry in entries), b"", b"", [], [], [], [])
    joints: list[np.ndarray] = []
    present: list[np.ndarray] = []
    for position, entry in enumerate(entries, first):
        made = _clip(work, entry)
        if isinstance(made, str):
            batch.skipped.append((entry.name, made))
        elif isinstance(made, SkeletonError):
            batch.refused.append(Refusal(made.name, made.line, made.reason, str(made)))
        else:
            joints.append(made.joints_MTV3)
            present.append(made.present_MT)
            batch.shapes.append(Shape(position, made.present_MT.shape[1], len(made.present_MT)))
            batch.decisions.extend(made.decisions)
    return batch._replace(joints=b"".join(map(_bytes, joints)), present=b"".join(map(_bytes, present)))


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _clip(work: Work, entry: Entry) -> Clip | SkeletonError | str:
    """A finished clip, or why there is none: an error, a reason to skip."""
    if entry.name in work.missing:
        return "known-missing"
    try:
        raw = entry.read()
        return apply(entry.name, raw, work.stages) if raw.tracks else "no-body"
    except SkeletonError as error:
        return error

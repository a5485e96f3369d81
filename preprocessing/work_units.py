"""Work units of a build: some clips, from their entries to rows ready to append, done by one worker at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.faults import faultpoint
from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import Entry
from preprocessing.stages import Clip, Decision, Stage, apply
from preprocessing.stages.bodies import every_joint

CLIPS = 64  # per unit: enough to amortize the cost of handing it over
BYTES = 16 << 20  # per unit, so that units waiting for their turn do not fill the memory


class Quarantined(NamedTuple):
    """A clip that could not be used: the parts of its SkeletonError."""

    name: str
    line: int
    reason: str
    message: str


class Shape(NamedTuple):
    """A kept clip: its position among the source's entries, its number of frames and bodies."""

    position: int
    frames: int
    bodies: int


class WorkUnit(NamedTuple):
    """Result of some clips: R rows, one contiguous run per body, in the order of `shapes`."""

    first: int  # position of the first entry
    entries: int
    read: int  # bytes
    joints: bytes  # (R, V, C) float32, metres
    present: bytes  # (R,) bool
    shapes: list[Shape]
    decisions: list[Decision]
    quarantined: list[Quarantined]
    skipped: list[tuple[str, str]]  # name, reason
    tracked: bytes = b""  # (R, V) bool or float16 score; empty if no joint is absent
    marked: int = 0  # joints in frames in which their body is present
    absent: int = 0  # of these


class Work(NamedTuple):
    """Settings that all units of a build share."""

    stages: tuple[Stage, ...]
    missing: frozenset[str]
    tracked: str = "bool"  # type of the marks of joints that were found: bool, or float16 for scores


Task = tuple[int, Sequence[Entry]]  # position of the first entry, and the entries


def cut(entries: Sequence[Entry], start: int = 0) -> Iterator[Task]:
    """Divide the entries from `start` on into tasks; where one ends depends on the entries alone."""
    first, size = start, 0
    for position in range(start, len(entries)):
        if position > first and (position - first == CLIPS or size + entries[position].size > BYTES):
            yield first, entries[first:position]
            first, size = position, 0
        size += entries[position].size
    if first < len(entries):
        yield first, entries[first:]


def make(work: Work, task: Task) -> WorkUnit:
    """Read, clean and pack the clips of one task; a clip that cannot be used does not affect the others."""
    first, entries = task
    unit = WorkUnit(first, len(entries), sum(entry.size for entry in entries), b"", b"", [], [], [], [])
    faultpoint("unit read")
    joints: list[np.ndarray] = []
    present: list[np.ndarray] = []
    tracked: list[np.ndarray | None] = []
    for position, entry in enumerate(entries, first):
        made = _clip(work, entry)
        if isinstance(made, str):
            unit.skipped.append((entry.name, made))
        elif isinstance(made, SkeletonError):
            unit.quarantined.append(Quarantined(made.name, made.line, made.reason, str(made)))
        else:
            joints.append(made.joints_MTV3)
            present.append(made.present_MT)
            tracked.append(made.tracked_MTV)
            unit.shapes.append(Shape(position, made.present_MT.shape[1], len(made.present_MT)))
            unit.decisions.extend(made.decisions)
    marked = sum(int(np.count_nonzero(p_MT)) * x_MTV3.shape[2] for p_MT, x_MTV3 in zip(present, joints, strict=True))
    unit = unit._replace(joints=b"".join(map(_bytes, joints)), present=b"".join(map(_bytes, present)), marked=marked)
    if all(marks_MTV is None for marks_MTV in tracked):
        return unit
    marks = [
        (every_joint(present_MT, joints_MTV3.shape[2]) if marks_MTV is None else marks_MTV).astype(work.tracked)
        for marks_MTV, present_MT, joints_MTV3 in zip(tracked, present, joints, strict=True)
    ]
    absent = sum(
        int(np.count_nonzero(marks_MTV[present_MT] == 0)) for marks_MTV, present_MT in zip(marks, present, strict=True)
    )
    return unit._replace(tracked=b"".join(map(_bytes, marks)), absent=absent)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _clip(work: Work, entry: Entry) -> Clip | SkeletonError | str:
    """Return the finished clip, or the error that quarantines it, or the reason to skip it."""
    if entry.name in work.missing:
        return "known-missing"
    try:
        raw = entry.read()
        return apply(entry.name, raw, work.stages) if raw.tracks else "no-body"
    except SkeletonError as error:
        return error

"""What a source is: clips that are read when their turn comes, and what is known about them beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.splits import Columns, Splits, array_splits, ntu_splits
from preprocessing.stages import Marks

COLUMNS = ("label", "setup", "camera", "subject", "replication")


class SourceError(ValueError):
    """A source that cannot be used at all; one line for the user."""


class Entry(NamedTuple):
    """One clip of a source: `reader(place, name)` is called when its turn comes, here or on another machine.

    There are as many as clips, all in memory at once: hence no closure for each.
    """

    name: str
    origin: str  # where it lies, for people
    size: int  # bytes to read
    stamp: int  # changes when the content does: time of change in ns, or a checksum
    reader: Callable[[Any, str], RawClip]
    place: Any  # where it lies, for `reader`

    def read(self) -> RawClip:
        """The clip as recorded; SkeletonError says what is wrong with it."""
        return self.reader(self.place, self.name)


@dataclass(frozen=True)
class Source:
    """Clips of one kind, sorted by name, with what is known about their bodies and splits."""

    dataset: str
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    marks: Marks
    kinect: bool
    entries: list[Entry]
    columns: Mapping[str, np.ndarray]  # COLUMNS -> int64, one value an entry
    missing: frozenset[str] = frozenset()  # names that are known to hold nothing
    unusable: list[SkeletonError] = field(default_factory=list)  # clips refused by their name alone
    given: Mapping[str, np.ndarray] = field(default_factory=dict)  # split columns of an array file, one value an entry

    def splits(self, kept: np.ndarray) -> Splits:
        """The protocols of the clips that were kept: (N,) positions in `entries`."""
        named = Columns(*(self.columns[key][kept] for key in ("label", "subject", "camera")))
        if self.kinect:
            return ntu_splits(self.columns["setup"][kept], named)
        return array_splits({key: value[kept] for key, value in self.given.items()}, named)

"""Data types of a source: clips that are read lazily, and what is known about them before reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocessing.hdf5.schema import CHANNELS, UNIT
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.splits import Columns, Protocols, array_splits, named_splits, ntu_splits
from preprocessing.stages.recipes import Landmarks, Stage

COLUMNS = ("label", "setup", "camera", "subject", "replication")
SPACE = CHANNELS
IMAGE = ("x", "y")


class SourceError(ValueError):
    """A source cannot be used at all; the message has one line."""


@dataclass(frozen=True)
class Reading:
    """Options of a reader; an empty value leaves the choice to it."""

    format: str = ""  # a key of SOURCES
    layout: str = ""  # a key of layouts.LAYOUTS
    labels: Path | None = None  # CSV: clip, label and optional columns
    classes: str = ""  # classes to keep, or a file of them
    splits: Path | None = None  # CSV: clip, part and optionally protocol
    channels: str = ""  # what the last axis of arrays holds: xyz, xy, xys, xyzs
    fps: float = 0.0
    bodies: str = ""  # how two bodies of more are chosen: motion or score
    labelled: bool = True  # False: clips without a label get label 0

    def given(self) -> dict[str, str]:
        """Return the options that were set, as text, for records."""
        return {key: str(value) for key, value in vars(self).items() if value and key != "labelled"}

    @classmethod
    def recorded(cls, given: Mapping[str, str]) -> Reading:
        """Return the options that `given` recorded."""
        types = {"labels": Path, "splits": Path, "fps": float}
        return cls(**{key: types.get(key, str)(value) for key, value in given.items()})  # type: ignore[arg-type]


class Entry(NamedTuple):
    """One clip of a source; `reader(place, name)` reads it later, here or on another machine.

    All entries are in memory at once, so they hold no closures.
    """

    name: str
    origin: str  # where it lies, for messages
    size: int  # bytes to read
    stamp: int  # changes with the content: modification time in ns, or a checksum
    reader: Callable[[Any, str], RawClip]
    place: Any  # where it lies, for `reader`

    def read(self) -> RawClip:
        """Read the clip as recorded; SkeletonError names what is wrong with it."""
        return self.reader(self.place, self.name)


@dataclass(frozen=True)
class ClipSource:
    """N clips of one kind, sorted by name, and what is known about their bodies and splits."""

    dataset: str
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    landmarks: Landmarks
    kinect: bool  # raw tracks of the sensor, from which bodies are still to be selected
    entries: list[Entry]  # N
    columns: Mapping[str, np.ndarray]  # COLUMNS -> (N,) int64
    missing: frozenset[str] = frozenset()  # names of clips that are officially missing or incomplete
    unusable: list[SkeletonError] = field(default_factory=list)  # clips rejected because of their name alone
    given: Mapping[str, np.ndarray] = field(default_factory=dict)  # split columns, (N,) each; see splits.array_splits
    benchmark: bool = False  # NTU RGB+D by its sample names: official protocols and counts apply
    protocols: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Protocol -> (N,) train, val, test, or empty for a clip that is in no part."""
    channels: tuple[str, ...] = CHANNELS  # names of the coordinates, ("x", "y") in two dimensions
    unit: str = UNIT  # of the coordinates
    scores: bool = False  # whether tracks carry scores of their joints, not only marks of those that were found
    stages: tuple[Stage, ...] = ()  # that the source needs before those of the recipe
    notes: list[str] = field(default_factory=list)  # facts for the user, one line each

    def splits(self, kept: np.ndarray) -> Protocols:
        """Return the protocols of the clips at positions `kept` of `entries`."""
        named = Columns(*(self.columns[key][kept] for key in ("label", "subject", "camera")))
        if self.protocols:
            return named_splits({key: value[kept] for key, value in self.protocols.items()}, named)
        if self.benchmark:
            return ntu_splits(self.columns["setup"][kept], named)
        return array_splits({key: value[kept] for key, value in self.given.items()}, named)

"""Options of the commands, by which their arguments are read before h5py and compiled code load. Imports no NumPy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from preprocessing import arguments


@dataclass(frozen=True)
class Build:
    """Options of `preprocessing.build`."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """Folders, zips or files of recordings in one of the formats above; several make one file if they are folders."""
    out: Path
    """The HDF5 file; FILE.manifest.json is written beside it."""
    recipe: str = "exact"
    """exact (no body is lost without a rule), or ctr or pyskl as published."""
    add: tuple[str, ...] = ()
    """Optional stages of recipe exact: motion (drop still bodies), yaw (face the camera), size (equal spines)."""
    workers: int = os.cpu_count() or 1
    """Number of processes or threads that read clips."""
    engine: str = "processes"
    """processes or threads on this machine, or ray: tasks on a Ray cluster."""
    address: str = "auto"
    """Address of the Ray cluster as ray start prints it; auto: the cluster of this machine."""
    format: str = ""
    """The format of SOURCE, if its content does not tell; see the table above."""
    layout: str = ""
    """Joints and bones by name: ntu25, kinect25, kinect20, utd20, coco17, openpose18, openpose25 or mediapipe33."""
    labels: Path | None = None
    """CSV with clip,label (and subject, view, split), for formats without labels; default: SOURCE/labels.csv."""
    classes: str = ""
    """Classes to keep, counted from 1, as 1-10,23; or a file with one class per line and the name it becomes."""
    splits: Path | None = None
    """CSV with clip,part (and protocol): splits of your own; part is train, val or test."""
    channels: str = ""
    """Values of a joint in array files: xyz, xy, xys or xyzs; s is a score."""
    fps: float = 0.0
    """Frames per second, if the source does not say."""
    bodies: str = ""
    """Criterion by which two bodies of more are chosen: score or motion; default: score if the source has any."""
    absent: str = "zero"
    """Coordinates that mean an absent joint in a source without marks or scores: zero (exact zeros, and NaN), nan,
    none, or a number that all its coordinates have, as --absent=-1. Whole bodies of zeros are always absent."""
    nan: Literal["absent", "quarantine"] = "absent"
    """A joint that is NaN is absent, or its clip is quarantined."""
    unit: Literal["m", "dm", "cm", "mm", "px"] = "m"
    """Unit of the coordinates of the source. The file has metres; px (pixels, or any other measure) is kept."""
    fill: Literal["none", "linear", "spline"] = "none"
    """Fill gaps of single joints with coordinates. Without it they stay marked as absent in the file."""
    fill_gap: int = 10
    """Longest gap that --fill fills, in frames."""
    smooth: int = 0
    """Odd number of frames of the window over which joints are averaged; 0: not at all."""
    overwrite: bool = False
    """Replace a file at --out that has other content."""
    allow_rejects: bool = False
    """Build even if more than 5 % of the clips cannot be read."""


@dataclass(frozen=True)
class Verify:
    """Options of `preprocessing.verify`."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The HDF5 file."""


@dataclass(frozen=True)
class Inspect:
    """Recordings or the built file to inspect, and the page to write."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE|FILE.h5")]
    """A built file; or folders, zips or an array file of recordings."""
    out: Path | None = None
    """Also write a page with the figures, plots, example clips and rejected clips."""


@dataclass(frozen=True)
class View:
    """Clips to show and the page to write."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The built file; the rules' decisions are read from the manifest beside it."""
    out: Path
    """The page to write."""
    clip: tuple[str, ...] = ()
    """Names of clips; default: the clips with most decisions, then the first of the file."""
    raw: tuple[Path, ...] = ()
    """Folders, zips or the array file that hold the recordings now, if the manifest's place is out of date."""
    most: int = 12
    """Number of clips when none is named."""


@dataclass(frozen=True)
class Export:
    """Options of `preprocessing.export`."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The built file."""
    format: Literal["dense", "ctr", "pyskl"]
    """dense, ctr or pyskl."""
    out: Path
    """The file to write."""
    frames: int = 64
    """dense: number of frames T that every clip is resampled to."""
    protocol: str = ""
    """ctr: the split protocol; empty: the file's default."""
    second: str = ""
    """ctr: values of an absent second actor, zeros or copy; empty: as CTR-GCN, zeros for NTU 60, copy for NTU 120."""


@dataclass(frozen=True)
class Synthetic:
    """Options of `preprocessing.synthetic`."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the .skeleton files and truth.json; it must be empty or not exist yet."""
    clips: int = 720
    """Number of clips; 60 or more contain every action and every quirk."""
    seed: int = 0
    """Random seed; the same seed gives the same bytes."""


FORMATS = """

formats (recognised by content; preprocessing/README.md has an example of each):
{formats}"""
OPTIONS: dict[str, Callable[..., Any]] = {
    "preprocessing.build": Build,
    "preprocessing.verify": Verify,
    "preprocessing.inspect": Inspect,
    "preprocessing.view": View,
    "preprocessing.export": Export,
    "preprocessing.synthetic": Synthetic,
}


def options_class(module: str) -> Any:
    """Return the dataclass of a command's options."""
    return OPTIONS[module]


def read_options(module: str, words: Sequence[str] | None = None) -> Any:
    """Return the options of a command.

    Args:
        module: Name in OPTIONS.
        words: Words of the command line; None: those of this process.
    """
    description = arguments.docstring(module)
    given = sys.argv[1:] if words is None else words
    if module == "preprocessing.build" and set(arguments.HELP) & set(given):
        description += FORMATS.format(formats=_formats())
    return arguments.parse(OPTIONS[module], module, description, given)


def _formats() -> str:
    from preprocessing.sources import formats  # loads every reader

    return formats()

"""Sources: where clips come from. Clips are read lazily, one at a time.

A format is recognised by its content, or named by `--format`. To add a format: write a module with the functions
`accepts(tree)` and `open_...(trees, reading)`, whose docstring's first paragraph says what the format is, and add one
line to `SOURCES`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import (
    arrays,
    bvh,
    coco,
    ctr,
    keypoint_arrays,
    kinetics,
    mediapipe,
    openpose,
    pyskl,
    skeleton_files,
    stgcn,
    tables,
    ucla,
    utd_mhad,
)
from preprocessing.sources.entries import COLUMNS, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.selection import select
from preprocessing.sources.skeleton_files import SUFFIX
from preprocessing.sources.trees import LABELS, TRUTH, Tree
from preprocessing.sources.unknown import describe, foreign

__all__ = [
    "COLUMNS", "SOURCES", "SUFFIX", "ClipSource", "Entry", "Reading", "SourceError", "SourceReader", "formats",
    "open_sources",
]  # fmt: skip


class SourceReader(NamedTuple):
    """A format of recordings."""

    accepts: Callable[[Tree], bool]
    open: Callable[[list[Tree], Reading], ClipSource]
    takes: frozenset[str]  # those of DEPENDENT that it uses
    suffixes: tuple[str, ...] = ()  # of its files in a folder or zip; empty if it is always one file
    several: bool = True  # whether several paths can be read as one source

    @property
    def about(self) -> str:
        """Description of the format, in one line."""
        document = sys.modules[self.open.__module__].__doc__ or ""
        return " ".join(document.partition("\n\n")[0].split())


DEPENDENT = ("labels", "layout", "channels", "bodies")
"""Options that not every format uses."""
LABELLED = frozenset(("labels",))
POSES = LABELLED | {"layout", "bodies"}
SOURCES: dict[str, SourceReader] = {
    "skeletons": SourceReader(skeleton_files.accepts, skeleton_files.open_skeletons, LABELLED, (".skeleton",)),
    "ctr": SourceReader(ctr.accepts, ctr.open_ctr, frozenset(), (), several=False),
    "keypoints": SourceReader(
        keypoint_arrays.accepts, keypoint_arrays.open_keypoint_arrays, POSES | {"channels"}, (), several=False
    ),
    "arrays": SourceReader(arrays.accepts, arrays.open_arrays, POSES - LABELLED | {"channels"}, (), several=False),
    "stgcn": SourceReader(stgcn.accepts, stgcn.open_stgcn, POSES | {"channels"}, (".npy", ".pkl")),
    "pyskl": SourceReader(pyskl.accepts, pyskl.open_pyskl, POSES | {"channels"}, (), several=False),
    "ucla": SourceReader(ucla.accepts, ucla.open_ucla, LABELLED | {"layout"}, (".json",)),
    "openpose": SourceReader(openpose.accepts, openpose.open_openpose, POSES, (".json",)),
    "kinetics": SourceReader(kinetics.accepts, kinetics.open_kinetics, POSES, (".json",)),
    "coco": SourceReader(coco.accepts, coco.open_coco, POSES, (".json",)),
    "mediapipe": SourceReader(mediapipe.accepts, mediapipe.open_mediapipe, POSES, (".json",)),
    "utd-mhad": SourceReader(utd_mhad.accepts, utd_mhad.open_utd_mhad, LABELLED | {"layout"}, (".mat",)),
    "bvh": SourceReader(bvh.accepts, bvh.open_bvh, LABELLED, (".bvh",)),
    "tables": SourceReader(tables.accepts, tables.open_tables, POSES, (".csv", ".tsv")),
}
"""Format, as `--format` takes it -> reader; the first that accepts a path reads it."""


def formats() -> str:
    """Return the table of formats as text, one line each, for --help."""
    return "\n".join(f"  {name:<12} {reader.about}" for name, reader in SOURCES.items())


def open_sources(paths: Iterable[Path], reading: Reading = Reading()) -> ClipSource:  # noqa: B008 - it is frozen
    """Open paths of one format as one source.

    Args:
        paths: Folders, zips and files.
        reading: How to read them.

    Raises:
        SourceError: A path does not exist, is not a source, or cannot be combined with the others.
    """
    trees = _trees(paths)
    paths = [tree.path for tree in trees]
    names = [reading.format or _recognised(tree) for tree in trees]
    if names[0] not in SOURCES:
        near = get_close_matches(names[0], SOURCES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SourceError(f"--format {names[0]!r} is unknown; {hint}choose one of {', '.join(SOURCES)}")
    for path, name in zip(paths, names, strict=True):
        if name != names[0]:
            raise SourceError(f"{path} has format {name} and {paths[0]} has {names[0]}; build them separately")
        if len(paths) > 1 and not SOURCES[name].several:
            raise SourceError(f"{path} has format {name} and must be the only source; build the others separately")
    unused = [key for key in DEPENDENT if getattr(reading, key) and key not in SOURCES[names[0]].takes]
    if unused:
        raise SourceError(f"--{unused[0]} is not used by format {names[0]}, which {paths[0]} has; leave it out")
    try:
        source = SOURCES[names[0]].open(trees, reading)
        source = replace(source, notes=[*source.notes, *other_files(trees, names[0], reading)])
        return select(source, reading)
    except SkeletonError as error:
        raise SourceError(str(error)) from None


def _trees(paths: Iterable[Path]) -> list[Tree]:
    """Return the trees of paths; SourceError if there are none, or for a path that cannot be a source."""
    trees = []
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist; name a folder, a zip or a file of recordings")
        trees.append(Tree(path))
        if known := foreign(trees[-1]):
            raise SourceError(known)
    if not trees:
        raise SourceError("no SOURCE given; name a folder, a zip or a file of recordings")
    return trees


def _recognised(tree: Tree) -> str:
    """Return the format of a tree; SourceError with what it is instead."""
    name = next((name for name, reader in SOURCES.items() if reader.accepts(tree)), "")
    if not name:
        raise SourceError(describe(tree, f"Known formats: {', '.join(SOURCES)} (--format names one)."))
    return name


def other_files(trees: Iterable[Tree], name: str, reading: Reading) -> list[str]:
    """Return a note about files of other formats, which the reader of format `name` does not open."""
    known = {suffix for reader in SOURCES.values() for suffix in reader.suffixes} | {".npz"}
    left = known - set(SOURCES[name].suffixes)
    named = {path.resolve() for path in (reading.labels, reading.splits) if path}
    counts = Counter(
        item.suffix
        for tree in trees
        if tree.is_folder or tree.is_zip
        for item in tree.items
        if item.suffix in left and item.name not in (LABELS, TRUTH) and Path(item.origin).resolve() not in named
    )
    if not counts:
        return []
    found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))
    return [f"the source also has {found} files, which format {name} does not read: build them separately"]

"""`.skeleton` files of NTU RGB+D or of an own recorder: folders, and zips read in place.

With NTU sample names (S001C002P003R002A013) the name gives action, subject, camera, setup and the official splits.
Files with other names are own recordings: a labels CSV, the folder or the name gives the class.
"""

from __future__ import annotations

import os

import numpy as np

from preprocessing import ntu
from preprocessing.layouts import layout
from preprocessing.skeleton import RawClip, SkeletonError, parse
from preprocessing.sources.entries import COLUMNS, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.trees import Item, Tree, content
from preprocessing.sources.zips import Packed
from preprocessing.stages.recipes import Landmarks

SUFFIX = ".skeleton"


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds `.skeleton` files."""
    return any(map(clip_name, tree.items))


def open_skeletons(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips and files of `.skeleton` files as one source, sorted by name.

    Raises:
        SourceError: There are no recordings, or a clip occurs twice.
    """
    found: dict[str, list[Item]] = {}
    for tree in trees:
        for item in tree.items:
            name = clip_name(item)
            if name and not any(_same_file(item, other) for other in found.get(name, ())):
                found.setdefault(name, []).append(item)
    if not found:
        raise SourceError(f"no {SUFFIX} files in {', '.join(str(tree.path) for tree in trees)}")
    named: dict[str, ntu.SampleName] = {}
    unusable: list[SkeletonError] = []
    for name in sorted(found):
        try:
            named[name] = ntu.parse_name(name)
        except ValueError as error:
            unusable.append(SkeletonError(name, 0, "bad-name", str(error)))
    # A benchmark may hold a stray file; a folder in which most names are others, or a labels file, is a user's own.
    own = reading.labels is not None or any(tree.has_labels for tree in trees)
    if own or len(named) < len(unusable):
        return _own(trees, found, reading)
    if repeated := next((items for items in found.values() if len(items) > 1), None):
        raise SourceError(
            f"clip {clip_name(repeated[0])} occurs twice: {repeated[0].origin} and {repeated[1].origin}; remove one"
        )
    entries = [_entry(name, found[name][0]) for name in named]
    numbers_N5 = np.array(list(named.values()), np.int64).reshape(-1, 5)
    columns = dict(zip(COLUMNS, (numbers_N5[:, 4] - 1, *numbers_N5[:, :4].T), strict=True))
    classes = 60 if np.all(columns["label"] < 60) else 120
    return ClipSource(
        dataset=f"ntu{classes}",
        joint_names=list(ntu.JOINT_NAMES),
        bones=ntu.BONES,
        fps=reading.fps or ntu.FPS,
        class_names=list(ntu.CLASS_NAMES[:classes]),
        landmarks=Landmarks(ntu.CENTRE_JOINT, ntu.SHOULDERS, ntu.SPINE),
        kinect=True,
        entries=entries,
        columns=columns,
        missing=ntu.MISSING,
        unusable=unusable,
        benchmark=True,
    )


def _own(trees: list[Tree], found: dict[str, list[Item]], reading: Reading) -> ClipSource:
    clips = [Found(_entry(name, item), item.path) for name, items in found.items() for item in items]
    return labelled_source(trees, clips, layout("kinect25"), reading, fps=ntu.FPS, kinect=True)


def clip_name(item: Item) -> str:
    """Return the clip's name, or "" for a file that is not a recording."""
    name = item.name
    return name[: -len(SUFFIX)] if name.lower().endswith(SUFFIX) else ""


def _same_file(one: Item, other: Item) -> bool:
    """Return whether links lead to one file by two paths."""
    if isinstance(one.place, Packed) or isinstance(other.place, Packed):
        return False
    try:
        return os.path.samefile(one.place, other.place)
    except OSError:
        return False


def _entry(name: str, item: Item) -> Entry:
    return Entry(name, item.origin, item.size, item.stamp, _read, item.place)


def _read(place: str | Packed, name: str) -> RawClip:
    return parse(content(place, name), name)

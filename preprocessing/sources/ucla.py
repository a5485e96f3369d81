"""NW-UCLA: a folder or zip of JSON files, each with file_name, skeletons (T, 20, 3) and label (from 1).

Names such as a01_s02_e03_v01 give action, subject, episode and view; the last view is the test split of xview.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from preprocessing.layouts import LAYOUTS
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.documents import begins_with, fault, first_json, read_json
from preprocessing.sources.entries import SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source, name_numbers
from preprocessing.sources.tracks import array_tracks
from preprocessing.sources.trees import Item, Tree
from preprocessing.sources.zips import Packed

ACTIONS = {
    1: "pick up with one hand", 2: "pick up with two hands", 3: "drop trash", 4: "walk around", 5: "sit down",
    6: "stand up", 8: "donning", 9: "doffing", 11: "throw", 12: "carry",
}  # fmt: skip
"""Action number, as in file names -> name; labels count them from 1."""


class Place(NamedTuple):
    """One file."""

    file: str | Packed
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds JSON files of NW-UCLA's form."""
    return begins_with(tree, b'"skeletons"')


def open_ucla(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of NW-UCLA's JSON files."""
    items = [item for tree in trees for item in tree.having(".json")]
    shape = np.shape(_skeletons(first_json(items), "the first file"))
    if len(shape) != 3 or shape[2] != 3:
        raise SourceError(f"skeletons of the first file have shape {shape}; expected (T, V, 3)")
    layout = LAYOUTS["kinect20"] if shape[1] == 20 and not reading.layout else None
    layout = layout or keypoint_layout(str(trees[0].path), shape[1], SPACE, reading)
    clips = []
    labels = [_label(item) for item in items]
    # Labels count from 1 in the published files; others count from 0 and have a 0.
    base = 0 if 0 in labels else 1
    for item, label in zip(items, labels, strict=True):
        place = Place(item.place, shape[1])
        entry = Entry(item.stem, item.origin, item.size, item.stamp, read_clip, place)
        clips.append(Found(entry, item.path, None if label is None else label - base))
    return labelled_source(trees, clips, layout, reading, class_names=_class_names(clips))


def _skeletons(document: Any, name: str) -> Any:
    if not isinstance(document, dict) or "skeletons" not in document:
        raise fault(name, "no skeletons; expected a JSON object with file_name, skeletons and label")
    return document["skeletons"]


def _label(item: Item) -> int | None:
    """Return the label of a file, by its end, so that the coordinates are not parsed twice; None without one."""
    try:
        digits = item.read()[-200:].rpartition(b'"label"')[2].strip(b" :}\r\n\t")
        if digits.isdigit():
            return int(digits)
        document = read_json(item.place, item.stem)
    except ValueError:  # reading it later reports the error
        return name_numbers(item.stem).get("action")
    label = document.get("label") if isinstance(document, dict) else None
    return label if isinstance(label, int) else name_numbers(item.stem).get("action")


def _class_names(clips: list[Found]) -> tuple[str, ...]:
    """Return NW-UCLA's classes up to the highest that occurs, if names and labels are its own."""
    numbers = list(ACTIONS)
    for clip in clips:
        action = name_numbers(clip.entry.name).get("action")
        if action not in numbers or numbers.index(action) != clip.label:
            return ()
    return tuple(ACTIONS.values())[: max(int(clip.label or 0) for clip in clips) + 1]


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it is damaged or has other joints than the first."""
    try:
        x_TVC = np.array(_skeletons(read_json(place.file, name), name), np.float32)
    except SkeletonError:
        raise
    except (TypeError, ValueError):
        raise fault(name, "skeletons is not an array of numbers") from None
    if x_TVC.shape[1:] != (place.joints, 3):
        raise fault(name, f"skeletons have shape {x_TVC.shape}; expected (T, {place.joints}, 3)")
    return array_tracks(x_TVC[:, None], None)

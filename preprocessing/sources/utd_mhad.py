"""UTD-MHAD: a folder or zip of `.mat` files (a1_s1_t1_skeleton.mat) with d_skel (20, 3, T).

Names give action, subject and trial. Files of MATLAB 7.3 are not read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocessing.layouts import LAYOUTS
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.entries import SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source, name_numbers
from preprocessing.sources.matlab import read_matlab
from preprocessing.sources.tracks import array_tracks
from preprocessing.sources.trees import Item, Tree, content
from preprocessing.sources.zips import Packed

SUFFIX = "_skeleton"
ACTIONS = (
    "swipe left", "swipe right", "wave", "clap", "throw", "cross arms", "basketball shoot", "draw x",
    "draw circle clockwise", "draw circle counter clockwise", "draw triangle", "bowling", "boxing", "baseball swing",
    "tennis swing", "arm curl", "tennis serve", "push", "knock", "catch", "pick up and throw", "jog", "walk",
    "sit to stand", "stand to sit", "lunge", "squat",
)  # fmt: skip


class Place(NamedTuple):
    """One file."""

    file: str | Packed
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds MATLAB files."""
    return tree.first_bytes(".mat")[:10] == b"MATLAB 5.0"


def open_utd_mhad(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of UTD-MHAD's skeletons."""
    items = [item for tree in trees for item in tree.having(".mat")]
    joints = _joints(items)
    layout = LAYOUTS["utd20"] if joints == 20 and not reading.layout else None
    layout = layout or keypoint_layout(str(trees[0].path), joints, SPACE, reading)
    actions = [name_numbers(item.stem).get("action") for item in items]
    official = all(action is not None and 1 <= action <= len(ACTIONS) for action in actions)
    clips = []
    for item, action in zip(items, actions, strict=True):
        entry = Entry(item.stem.removesuffix(SUFFIX), item.origin, item.size, item.stamp, read_clip,
                      Place(item.place, joints))  # fmt: skip
        clips.append(Found(entry, item.path, action - 1 if official and action else None))
    return labelled_source(trees, clips, layout, reading, class_names=ACTIONS if official else ())


def _joints(items: list[Item]) -> int:
    why = ""
    for item in items:
        try:
            return _skeleton(item.read(), item.stem).shape[1]
        except SkeletonError as error:
            why = why or str(error)
    raise SourceError(why or "no MATLAB files")


def _skeleton(raw: bytes, name: str) -> np.ndarray:
    """Return the joints (T, V, 3) of a file: d_skel, or its only array (V, 3, T)."""
    try:
        numeric = read_matlab(raw)
    except ValueError as error:
        raise SkeletonError(name, 0, "unreadable", f"the MATLAB file is damaged: {error}") from None
    chosen = numeric.get("d_skel", next(iter(numeric.values()), None) if len(numeric) == 1 else None)
    if chosen is None or chosen.ndim != 3 or chosen.shape[1] != 3 or not chosen.size:
        found = {key: value.shape for key, value in numeric.items()}
        raise SkeletonError(name, 0, "bad-form", f"no d_skel (V, 3, T); the file has {found}")
    return np.asarray(chosen, np.float32).transpose(2, 0, 1)


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it is damaged or has other joints than the first."""
    x_TVC = _skeleton(content(place.file, name), name)
    if x_TVC.shape[1] != place.joints:
        raise SkeletonError(name, 0, "joint-count", f"{x_TVC.shape[1]} joints; the first file has {place.joints}")
    return array_tracks(x_TVC[:, None], None)

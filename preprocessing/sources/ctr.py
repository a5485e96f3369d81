"""CTR-GCN's `.npz`: x_train, y_train, x_test, y_test, zero-padded (N, T, 150) with one-hot labels.

Its clips are centred already, and an absent second actor may be a copy of the first (NTU RGB+D 120).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.skeleton import RawClip
from preprocessing.sources.array_files import Rows, memory, read_arrays
from preprocessing.sources.entries import ClipSource, Entry, Reading, SourceError
from preprocessing.sources.label_arrays import label_array
from preprocessing.sources.tracks import array_tracks, selecting
from preprocessing.sources.trees import Tree
from preprocessing.stages.recipes import Landmarks

PARTS = ("train", "test")
WIDTH = 150  # values per frame: 2 bodies, 25 joints, 3 coordinates


class Place(NamedTuple):
    """One clip in a file."""

    rows: Rows | np.ndarray
    row: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree is an npz with x_train or x_test."""
    return tree.has_member("x_train.npy", "x_test.npy")


def open_ctr(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open one file of CTR-GCN; SourceError names in one line what is wrong with it."""
    (tree,) = trees
    path = tree.path
    arrays = read_arrays(path, [f"{letter}_{part}" for letter in "xy" for part in PARTS])
    places: list[Place] = []
    labels: list[np.ndarray] = []
    parts: list[str] = []
    classes = 0
    for part in PARTS:
        if f"x_{part}" not in arrays:
            continue
        x_NTD = arrays[f"x_{part}"]
        if f"y_{part}" not in arrays:
            raise SourceError(f"{path} has x_{part} but has no y_{part}")
        if len(x_NTD.shape) != 3 or x_NTD.shape[2] != WIDTH or x_NTD.dtype.kind != "f":
            raise SourceError(
                f"{path}: x_{part} has shape {x_NTD.shape}; expected floats (N, T, 150): 150 values per frame"
            )
        y = memory(arrays[f"y_{part}"])
        if y.ndim not in (1, 2) or len(y) != x_NTD.shape[0]:
            raise SourceError(f"{path}: y_{part} has shape {y.shape}; expected one row per clip")
        label, columns = label_array(f"{path}, y_{part}", y, len(y)) if len(y) else (np.zeros(0, np.int64), y.shape[-1])
        if label.dtype.kind == "U":
            raise SourceError(f"{path}: y_{part} holds text; expected integers, or one-hot rows")
        labels.append(label)
        classes = max(classes, columns, int(label.max(initial=-1)) + 1)
        places += [Place(x_NTD, row) for row in range(x_NTD.shape[0])]
        parts += [part] * x_NTD.shape[0]
    if not places:
        raise SourceError(f"{path} contains no clips")
    label_N = np.concatenate(labels).astype(np.int64)
    zero_N = np.zeros(len(places), np.int64)
    official = classes in (60, 120)
    stamp = path.stat().st_mtime_ns
    return ClipSource(
        dataset=path.stem,
        joint_names=list(ntu.JOINT_NAMES),
        bones=ntu.BONES,
        fps=reading.fps or ntu.FPS,
        class_names=list(ntu.CLASS_NAMES[:classes]) if official else [f"class {k}" for k in range(classes)],
        # The joint that CTR-GCN centres by, so that centring moves nothing.
        landmarks=Landmarks(ntu.CENTRE_JOINT, ntu.SHOULDERS, ntu.SPINE),
        kinect=False,
        entries=[
            Entry(f"{path.stem}-{i:06d}", f"{path}[{i}]", 4 * WIDTH * place.rows.shape[1], stamp, read_clip, place)
            for i, place in enumerate(places)
        ],
        columns={"label": label_N} | dict.fromkeys(("setup", "camera", "subject", "replication"), zero_N),
        given={"split": np.array(parts)},
        stages=selecting(2, False, reading),
    )


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip without its padding."""
    rows = place.rows
    x_TD = (rows.read(place.row, place.row + 1, name) if isinstance(rows, Rows) else rows[place.row : place.row + 1])[0]
    filled = np.flatnonzero(x_TD.any(axis=1))
    end = int(filled[-1]) + 1 if len(filled) else 1
    return array_tracks(x_TD[:end].reshape(end, 2, 25, 3).astype(np.float32), None)

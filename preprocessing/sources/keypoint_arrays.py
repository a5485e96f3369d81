"""Keypoint `.npz`: pyskl's keypoint (N, M, T, V, C), label, total_frames, frame_dir and split as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip
from preprocessing.sources.array_files import Rows, memory, read_arrays
from preprocessing.sources.arrays import looks_scored
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.label_arrays import label_array, texts
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import array_tracks, selecting
from preprocessing.sources.trees import Tree

READ = (
    "keypoint", "keypoint_score", "label", "total_frames", "frame_dir", "split", "subject", "view", "class_names",
)  # fmt: skip


class Place(NamedTuple):
    """One clip in a file."""

    keypoint: Rows | np.ndarray
    score: Rows | np.ndarray | None
    row: int
    frames: int
    channels: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree is an npz with keypoint."""
    return tree.has_member("keypoint.npy")


def open_keypoint_arrays(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open one file; SourceError names in one line what is wrong with it."""
    (tree,) = trees
    path = tree.path
    arrays = read_arrays(path, READ)
    small = {key: memory(value) for key, value in arrays.items() if not key.startswith("keypoint")}
    x, score = arrays["keypoint"], arrays.get("keypoint_score")
    if len(x.shape) != 5 or x.shape[4] not in (2, 3) or x.dtype.kind != "f":
        raise SourceError(
            f"{path}: keypoint has shape {x.shape}; expected floats (N, M, T, V, C) with 2 or 3 coordinates"
        )
    count, bodies, longest, joints = x.shape[:4]
    for key in ("total_frames", "frame_dir", "split"):
        if key in small and small[key].shape != (count,):
            raise SourceError(f"{path}: {key} has shape {small[key].shape}; expected one value for {count} clips")
    if score is not None and score.shape != x.shape[:4]:
        raise SourceError(f"{path}: keypoint_score has shape {score.shape}; expected {x.shape[:4]}")
    frames_N = small.get("total_frames", np.full(count, longest))
    if not count or frames_N.dtype.kind not in "iu" or frames_N.min() < 0 or frames_N.max() > longest:
        raise SourceError(
            f"{path}: total_frames must hold integers from 0 to {longest}, one for each of 1 or more clips"
        )
    if "label" not in small:
        raise SourceError(f"{path} has no label; a keypoint file has keypoint (N, M, T, V, C) and label (N,)")
    label, _ = label_array(path, small["label"], count)
    sample = x.read(0, 1) if isinstance(x, Rows) else x[:1]
    inside = reading.channels == "xys" or (not reading.channels and x.shape[4] == 3 and looks_scored(sample))
    channels = IMAGE if inside or x.shape[4] == 2 else SPACE
    names = (
        texts(path, "frame_dir", small["frame_dir"])
        if "frame_dir" in small
        else [f"{path.stem}-{i:06d}" for i in range(count)]
    )
    size, stamp = int(np.prod(x.shape[1:])) * 4, path.stat().st_mtime_ns
    clips = []
    for i in range(count):
        place = Place(x, score, i, int(frames_N[i]), len(channels))
        numbers = {key: int(small[word][i]) for word, key in (("subject", "subject"), ("view", "camera"))
                   if word in small}  # fmt: skip
        entry = Entry(str(names[i]), f"{path}[{i}]", size, stamp, read_clip, place)
        clips.append(Found(entry, label=label[i].item(), numbers=numbers))
    parts = {"split": dict(zip(map(str, names), small["split"].astype(str), strict=True))} if "split" in small else None
    class_names = [str(text) for text in small["class_names"]] if "class_names" in small else []
    scored = inside or score is not None
    return labelled_source(
        trees, clips, keypoint_layout(path, joints, channels, reading), reading, class_names=class_names,
        channels=channels, unit="px" if channels == IMAGE else "m", scores=scored, protocols=parts,
        stages=selecting(bodies, scored, reading),
    )  # fmt: skip


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip."""
    x_TMVC = _frames(place.keypoint, place, name).astype(np.float32)
    score_TMV = _frames(place.score, place, name) if place.score is not None else None
    return array_tracks(x_TMVC, score_TMV, place.channels)


def _frames(rows: Rows | np.ndarray, place: Place, name: str) -> np.ndarray:
    """Return the clip's frames with the body behind the frame: (T, M, V, ...)."""
    x = rows.read(place.row, place.row + 1, name) if isinstance(rows, Rows) else rows[place.row : place.row + 1]
    return x[0, :, : place.frames].swapaxes(0, 1)

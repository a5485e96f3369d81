"""Array layouts of other projects, converted to the arrays of our own format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from preprocessing import ntu
from preprocessing.sources.entries import SourceError

Arrays = dict[str, np.ndarray]


def from_ctr(path: Path, arrays: Arrays) -> Arrays:
    """Convert CTR-GCN's x_train, y_train, x_test, y_test: zero-padded (N, T, 150), labels one-hot."""
    clips: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    parts: list[str] = []
    for part in ("train", "test"):
        if f"x_{part}" not in arrays:
            continue
        x_NTD = arrays[f"x_{part}"]
        if f"y_{part}" not in arrays:
            raise SourceError(f"{path} has x_{part} but has no y_{part}")
        y_NK = arrays[f"y_{part}"]
        if x_NTD.ndim != 3 or x_NTD.shape[2] != 150 or x_NTD.dtype.kind != "f":
            raise SourceError(
                f"{path}: x_{part} has shape {x_NTD.shape}; expected floats (N, T, 150): 150 values per frame"
            )
        if y_NK.ndim != 2 or len(y_NK) != len(x_NTD):
            raise SourceError(f"{path}: y_{part} has shape {y_NK.shape}; expected one row per clip")
        for x_TD in x_NTD:
            filled = np.flatnonzero(x_TD.any(axis=1))
            end = int(filled[-1]) + 1 if len(filled) else 1
            clips.append(x_TD[:end].reshape(end, 2, 25, 3).astype(np.float32))
        labels.append(y_NK.argmax(axis=1))
        parts += [part] * len(x_NTD)
    if not clips:
        raise SourceError(f"{path} contains no clips")
    return _own(clips, np.concatenate(labels)) | {"split": np.array(parts)}


def from_pyskl(path: Path, arrays: Arrays) -> Arrays:
    """Convert pyskl's keypoint (N, M, T, V, 3), label, total_frames, frame_dir and split."""
    x_NMTVC = arrays["keypoint"]
    if x_NMTVC.ndim != 5 or x_NMTVC.shape[4] != 3 or x_NMTVC.dtype.kind != "f":
        raise SourceError(f"{path}: keypoint has shape {x_NMTVC.shape}; expected floats (N, M, T, V, 3): 3 coordinates")
    count, longest = x_NMTVC.shape[0], x_NMTVC.shape[2]
    for key in ("label", "total_frames", "frame_dir", "split"):
        if key in arrays and arrays[key].shape != (count,):
            raise SourceError(f"{path}: {key} has shape {arrays[key].shape}; expected one value for {count} clips")
    frames_N = arrays.get("total_frames", np.full(count, longest))
    if not count or frames_N.dtype.kind not in "iu" or frames_N.min() < 0 or frames_N.max() > longest:
        raise SourceError(
            f"{path}: total_frames must hold integers from 0 to {longest}, one for each of 1 or more clips"
        )
    clips = [
        x_MTVC[:, :frames].transpose(1, 0, 2, 3).astype(np.float32)
        for x_MTVC, frames in zip(x_NMTVC, frames_N, strict=True)
    ]
    own: Arrays = {key: arrays[key] for key in ("split", "subject", "view", "class_names") if key in arrays}
    if "frame_dir" in arrays:
        own["name"] = arrays["frame_dir"]
    return _own(clips, arrays.get("label", np.zeros(0))) | own


def _own(clips: list[np.ndarray], label_N: np.ndarray) -> Arrays:
    """Pack clips (T, M, V, 3) as X and ptr; a skeleton of 25 joints is assumed to be the Kinect's."""
    arrays = {"X": np.concatenate(clips), "ptr": np.cumsum([0, *map(len, clips)]), "label": label_N}
    if clips[0].shape[2] == len(ntu.JOINT_NAMES):
        arrays |= {"bones": ntu.BONES, "joint_names": np.array(ntu.JOINT_NAMES), "shoulders": np.array(ntu.SHOULDERS)}
        arrays["spine"] = np.array(ntu.SPINE)
    return arrays


LAYOUTS: dict[str, Callable[[Path, Arrays], Arrays]] = {
    "x_train": from_ctr,
    "x_test": from_ctr,
    "keypoint": from_pyskl,
}
"""Array that only files of this layout have -> function that converts the file."""

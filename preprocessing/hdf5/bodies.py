"""Rows of a clip's bodies: the arithmetic of first rows and slots, in one place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from preprocessing.hdf5.schema import SLOTS, SkeletonFile


class BodyIndex(NamedTuple):
    """Index of B bodies of N clips whose rows follow each other, clip after clip and slot after slot."""

    first_body_N: np.ndarray  # int64, first body of each clip
    clip_B: np.ndarray  # int64, clip of each body
    slot_B: np.ndarray  # int64, 0 or 1
    start_B: np.ndarray  # int64, first row of each body


def body_index(frames_N: np.ndarray, bodies_N: np.ndarray) -> BodyIndex:
    """Return the index of clips with these numbers of frames and bodies; each body owns one row per frame."""
    first_N = np.cumsum(bodies_N) - bodies_N
    clip_B = np.repeat(np.arange(len(bodies_N)), bodies_N)
    rows_B = frames_N[clip_B]
    return BodyIndex(first_N, clip_B, np.arange(len(clip_B)) - first_N[clip_B], np.cumsum(rows_B) - rows_B)


def first_rows(file: SkeletonFile, slots: int = SLOTS) -> np.ndarray:
    """First row of each clip's bodies by slot: (N, slots) int64, -1 where a clip has no such body."""
    start_NM = np.full((len(file.clips["name"]), slots), -1, dtype=np.int64)
    start_NM[file.body_clip, file.body_slot] = file.body_start
    return start_NM


def clip_rows(file: SkeletonFile, clip: int) -> np.ndarray:
    """Joints of one clip: (M, T, V, 3) float32 metres, rows of absent frames zero."""
    return _by_slot(file, clip, file.joints_RV3)


def clip_present(file: SkeletonFile, clip: int) -> np.ndarray:
    """Frames of one clip in which each body was tracked: (M, T) bool."""
    return _by_slot(file, clip, file.present_R)


def clip_tracked(file: SkeletonFile, clip: int) -> np.ndarray | None:
    """Joints of one clip that were found: (M, T, V) bool or float16 score, 0 where absent; None in a file without gaps.

    All joints of a body are absent in frames in which the body is.
    """
    if file.tracked_RV is None:
        return None
    return _by_slot(file, clip, file.tracked_RV) * clip_present(file, clip)[..., None]


def _by_slot(file: SkeletonFile, clip: int, values_R: np.ndarray) -> np.ndarray:
    first, count = int(file.clips["first_body"][clip]), int(file.clips["bodies"][clip])
    frames = int(file.clips["frames"][clip])
    values_MT = np.zeros((count, frames, *values_R.shape[1:]), values_R.dtype)
    for body in range(first, first + count):
        start = int(file.body_start[body])
        values_MT[file.body_slot[body]] = values_R[start : start + frames]
    return values_MT

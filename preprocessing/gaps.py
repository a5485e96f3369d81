"""Rows of a built file in which joints are absent, as batches and exports take them."""

from __future__ import annotations

import numpy as np

from preprocessing.hdf5 import SkeletonFile
from preprocessing.stages.bodies import Body
from preprocessing.stages.gaps import fill_body

BRIDGED = 1.0  # seconds: the longest gap of a joint that is interpolated on reading


def absent_shares(file: SkeletonFile) -> np.ndarray:
    """Return the share of absent joints of each clip, of the joints of bodies that are present: (N,) float64."""
    if file.tracked_RV is None:
        return np.zeros(len(file.clips["name"]))
    absent_R = np.where(file.present_R, np.count_nonzero(file.tracked_RV == 0, axis=1), 0)
    rows_R = np.asarray(file.present_R, np.int64)
    end_B = file.body_start + file.clips["frames"][file.body_clip]
    sums = [np.concatenate([[0], np.cumsum(values_R)]) for values_R in (absent_R, rows_R)]
    absent_N, rows_N = (
        np.bincount(file.body_clip, sum_R[end_B] - sum_R[file.body_start], len(file.clips["name"])) for sum_R in sums
    )
    return absent_N / np.maximum(rows_N * file.tracked_RV.shape[1], 1)


def bridged_rows(file: SkeletonFile) -> np.ndarray:
    """Return the rows of a file with absent joints: (R, V, C) float32, NaN where a joint is absent.

    A gap of at most `BRIDGED` seconds is interpolated between the frames that have the joint, so that resampling a clip
    goes from one frame in which a joint was found to the next. Rows of absent bodies stay zero.
    """
    assert file.tracked_RV is not None
    rows_RVC = np.array(file.joints_RV3)
    gap = round(BRIDGED * file.fps)
    for clip, start in zip(file.body_clip, file.body_start, strict=True):
        rows = slice(int(start), int(start) + int(file.clips["frames"][clip]))
        frame_F = np.flatnonzero(file.present_R[rows])
        body = Body(0, frame_F, rows_RVC[rows][frame_F], 0.0, file.tracked_RV[rows][frame_F])
        if len(frame_F) and not np.all(body.tracked_FV):
            full = fill_body(body, gap)
            assert full.tracked_FV is not None
            rows_RVC[rows.start + frame_F] = np.where((full.tracked_FV > 0)[..., None], full.joints_FV3, np.nan)
    return rows_RVC

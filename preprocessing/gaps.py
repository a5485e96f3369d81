"""Rows of a built file in which joints are absent, as batches and exports take them."""

from __future__ import annotations

import numpy as np

from preprocessing.hdf5 import SkeletonFile

BRIDGED = 1.0  # seconds: the longest gap of a joint that is interpolated on reading


def bridged_rows(file: SkeletonFile) -> np.ndarray:
    """Return the rows of a file with absent joints: (R, V, C) float32, NaN where a joint is absent.

    A gap of at most `BRIDGED` seconds is interpolated between the frames that have the joint, so that resampling a clip
    goes from one frame in which a joint was found to the next. Rows of absent bodies stay zero.
    """
    from preprocessing.stages.bodies import Body  # noqa: PLC0415 - loads compiled code, which most files need not
    from preprocessing.stages.gaps import fill_body  # noqa: PLC0415

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

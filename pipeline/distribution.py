"""Length, size and speed of the clips that a network was trained on, and warnings about clips that are far off.

Imports no torch: run folders are written without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from preprocessing.hdf5 import SkeletonFile, clip_present, clip_rows

MEASURED = 400  # clips of a file, evenly spaced
QUANTILES = (0.01, 0.5, 0.99)
FACTOR = 2.0  # beyond the 1st or 99th percentile, from which a clip is far off


def of_clip(joints_MTVC: np.ndarray, present_MT: np.ndarray) -> dict[str, float]:
    """Return what is typical of a clip's first body.

    Returns:
        `frames`; `size`: the median over frames of its largest extent, metres; `speed`: the mean distance that its
        joints move from frame to frame, metres; `motion`: the same, relative to the body as a whole.
    """
    seen_F = np.flatnonzero(present_MT[0])
    joints_FVC = joints_MTVC[0][seen_F]
    found_FV = np.any(joints_FVC != 0, axis=2)[..., None]  # an absent joint is zero
    high, low = (np.where(found_FV, joints_FVC, fill) for fill in (-np.inf, np.inf))
    extent_F = (high.max(axis=1) - low.min(axis=1)).max(axis=1) if len(seen_F) else np.zeros(1)
    both_FV = (found_FV[1:] & found_FV[:-1])[..., 0] & (np.diff(seen_F) == 1)[:, None]
    step_FVC = np.diff(joints_FVC, axis=0)
    share_FV = both_FV / np.maximum(both_FV.sum(axis=1, keepdims=True), 1)
    glide_FC = (step_FVC * share_FV[..., None]).sum(axis=1)  # of the body as a whole
    speed, motion = (
        float(np.linalg.norm(moved_FVC, axis=2)[both_FV].mean()) if both_FV.any() else 0.0
        for moved_FVC in (step_FVC, step_FVC - glide_FC[:, None])
    )
    return {
        "frames": float(present_MT.shape[1]),
        "size": float(np.median(extent_F)),
        "speed": speed,
        "motion": motion,
    }


def quantiles(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Return the 1st, 50th and 99th percentile of each measure of `of_clip` over clips (joints, present)."""
    each = [of_clip(*clip) for clip in clips]
    if not each:
        return {}
    return {key: np.quantile([one[key] for one in each], QUANTILES).tolist() for key in each[0]}


def of_file(file: SkeletonFile) -> dict[str, list[float]]:
    """Return `quantiles` of a data file, from at most `MEASURED` clips."""
    count = len(file.clips["name"])
    chosen = np.arange(min(count, MEASURED)) * count // max(1, min(count, MEASURED))
    with_bodies = [int(clip) for clip in chosen if file.clips["bodies"][clip]]
    return quantiles((clip_rows(file, clip), clip_present(file, clip)) for clip in with_bodies)


def warnings(typical: dict[str, Any], joints_MTVC: np.ndarray, present_MT: np.ndarray) -> tuple[str, ...]:
    """Return a warning for each measure of a clip that is far from those that the network was trained on.

    Args:
        typical: `quantiles` of the training data; empty if they are not known.
        joints_MTVC: Finished clip.
        present_MT: Frames in which each body was tracked.
    """
    if not typical:
        return ()
    mine, found = of_clip(joints_MTVC, present_MT), []
    if mine["frames"] > FACTOR * typical["frames"][2]:
        found.append(
            f"{mine['frames']:.0f} frames are far more than in training (median {typical['frames'][1]:.0f}, 99 % below "
            f"{typical['frames'][2]:.0f}): one answer may cover several actions. Use --window for a timeline."
        )
    for key, what, hint in (
        ("size", "The body measures", "Check the unit of the coordinates."),
        ("speed", "Per frame, joints move", "Check the frame rate and the unit."),
    ):
        low, middle, high = typical[key]
        if mine[key] > FACTOR * high or mine[key] < low / FACTOR:
            found.append(
                f"{what} {mine[key]:.3g} m, in training {low:.3g} to {high:.3g} m (median {middle:.3g}). {hint}"
            )
    return tuple(found)

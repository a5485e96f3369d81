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
JOINTS = 5  # fewer do not tell how a body stands
UNLIKE, ALIKE = 0.3, 0.8  # correlations of heights below and above which axes are other ones, and the same
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


def pose_of(joints_MTVC: np.ndarray, present_MT: np.ndarray) -> np.ndarray:
    """Return the mean pose of a clip's first body (V, C), about its centre and of size 1; zeros without a body."""
    joints_FVC = joints_MTVC[0][present_MT[0]].astype(np.float64)
    found_FV1 = np.any(joints_FVC != 0, axis=2)[..., None]
    pose_VC: np.ndarray = (joints_FVC * found_FV1).sum(axis=0) / np.maximum(found_FV1.sum(axis=0), 1)
    pose_VC = pose_VC - pose_VC.mean(axis=0)
    size = float(np.linalg.norm(pose_VC))
    return pose_VC / size if size > 0 else pose_VC


def quantiles(clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Return the 1st, 50th and 99th percentile of each measure of `of_clip` over clips (joints, present).

    Returns:
        Also `pose`: the mean of `pose_of`, as V * C values.
    """
    each, poses = [], []
    for clip in clips:
        each.append(of_clip(*clip))
        poses.append(pose_of(*clip))
    if not each:
        return {}
    measures = {key: np.quantile([one[key] for one in each], QUANTILES).tolist() for key in each[0]}
    return measures | {"pose": np.mean(poses, axis=0).ravel().tolist()}


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
    if mine["frames"] < typical["frames"][0] / FACTOR:
        found.append(
            f"{mine['frames']:.0f} frames are far fewer than in training (median {typical['frames'][1]:.0f}, 99 % "
            f"above {typical['frames'][0]:.0f}). Check the frame rate, or record the whole action."
        )
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
    if axes := other_axes(typical, pose_of(joints_MTVC, present_MT)):
        found.append(axes)
    return tuple(found)


def other_axes(typical: dict[str, Any], pose_VC: np.ndarray) -> str:
    """Return a warning if the body stands along another axis, or the other way up, than bodies of the training.

    The axis along which joints are spread most is compared: people stand, sit and bend, but heads stay above feet.
    """
    trained_VC = np.array(typical.get("pose", [])).reshape(-1, pose_VC.shape[1])
    if trained_VC.shape != pose_VC.shape or len(pose_VC) < JOINTS:
        return ""
    up = int(trained_VC.std(axis=0).argmax())
    spread_C = pose_VC.std(axis=0)
    if not spread_C.any() or not trained_VC[:, up].any():
        return ""
    alike_C = (pose_VC * trained_VC[:, up : up + 1]).sum(axis=0) / len(pose_VC)
    alike_C = alike_C / np.maximum(spread_C * trained_VC[:, up].std(), 1e-12)  # correlations
    best = int(np.abs(alike_C).argmax())
    if alike_C[up] > UNLIKE or abs(alike_C[best]) < ALIKE:
        return ""
    sign = "-" if alike_C[best] < 0 else ""
    return (
        f"Bodies stand along {'xyz'[up]} in training, and this one along {sign}{'xyz'[best]}: axes seem to be reversed "
        "or swapped, unless it lies or stands on its head."
    )

"""Stages for absent joints: mark them, fill short gaps, smooth what was found."""

from __future__ import annotations

import numpy as np

from preprocessing.stages.bodies import Body, Effect, Result, Scene, StageError, found, motion

LEAST_KNOTS = 4  # frames with the joint: fewer define no spline


def absent(scene: Scene, zeros: float, nan: float, origin: float, value: float = 0.0) -> Result:
    """Mark joints as absent by their coordinates; a body is absent in frames in which all its joints are.

    Args:
        scene: The clip. Marks that its source gave stay, and exact zeros of such a body mean nothing.
        zeros: 1: a joint at exactly zero is absent, 0: it is present.
        nan: 1: a joint with a coordinate that is NaN is absent, 0: the clip is rejected.
        origin: Joint that the source has centred, which may be at zero; -1: none.
        value: A joint whose coordinates all have this value is absent too; 0: no further value.

    Raises:
        StageError: A coordinate is infinite, or NaN is not allowed; or no body is left.
    """
    bodies: list[Body] = []
    effects: list[Effect] = []
    changed = False
    for body in scene.bodies:
        finite_FV = np.isfinite(body.joints_FV3).all(axis=-1)
        if not finite_FV.all():
            _check_finite(body, bool(nan))
        found_FV = finite_FV
        if zeros and body.tracked_FV is None:
            zero_FV: np.ndarray = ~np.any(body.joints_FV3, axis=-1)
            if origin >= 0:
                zero_FV[:, int(origin)] = False
            found_FV = finite_FV & ~zero_FV
        if value:
            found_FV = found_FV & ~(body.joints_FV3 == np.float32(value)).all(axis=-1)
        if found_FV.all():
            bodies.append(body)
            continue
        changed = True
        effects.append((body.body_id, "absent", float(1 - found_FV.mean()), 0.0))
        marks_FV = found_FV if body.tracked_FV is None else np.where(found_FV, body.tracked_FV, 0)
        joints_FVC = np.where(found_FV[..., None], body.joints_FV3, np.float32(0))
        keep_F = (marks_FV > 0).any(axis=1)
        if keep_F.any():
            body = Body(body.body_id, body.frame_F[keep_F], joints_FVC[keep_F], 0.0, marks_FV[keep_F])
            bodies.append(body)
    if not changed:
        return scene, []
    if not bodies:
        raise StageError("no-body", "no frame has a joint that was found")
    moves = [motion(body.joints_FV3, body.tracked_FV) if len(scene.bodies) > 1 else 0.0 for body in bodies]
    moved = tuple(body._replace(motion=value) for body, value in zip(bodies, moves, strict=True))
    return scene._replace(bodies=moved), effects


def _check_finite(body: Body, nan: bool) -> None:
    wrong_FV = (np.isinf(body.joints_FV3) if nan else ~np.isfinite(body.joints_FV3)).any(axis=-1)
    if wrong_FV.any():
        row, joint = (int(place) for place in np.argwhere(wrong_FV)[0])
        what = "infinite" if np.isinf(body.joints_FV3[row, joint]).any() else "NaN"
        raise StageError("non-finite", f"joint {joint} of body {body.body_id} in frame {body.frame_F[row]} is {what}")


def fill(scene: Scene, gap: float, spline: float) -> Result:
    """Fill gaps of a joint of at most `gap` frames; a filled joint counts as found.

    A gap between two frames that have the joint is interpolated; one at the beginning or end takes the nearest frame's
    coordinates. The score of a filled joint is the lower one of those that it is made of.

    Args:
        scene: The clip.
        gap: Longest gap that is filled, in frames.
        spline: 0: linear. 1: cubic spline through all frames that have the joint (linear if fewer than four have).
    """
    bodies: list[Body] = []
    effects: list[Effect] = []
    for body in scene.bodies:
        if body.tracked_FV is None or (body.tracked_FV > 0).all():
            bodies.append(body)
            continue
        full = fill_body(body, gap, bool(spline))
        bodies.append(full)
        gaps = int(np.count_nonzero(~found(body)))
        effects.append((body.body_id, "fill", float(gaps - np.count_nonzero(~found(full))), float(gaps)))
    return scene._replace(bodies=tuple(bodies)), effects


def fill_body(body: Body, gap: float, spline: bool = False) -> Body:
    """Return a body whose gaps of at most `gap` frames are filled; see `fill`."""
    assert body.tracked_FV is not None
    found_FV = found(body)
    rows, joints = found_FV.shape
    place_F1, column_V = np.arange(rows)[:, None], np.arange(joints)
    before_FV = np.maximum.accumulate(np.where(found_FV, place_F1, -1))
    after_FV = np.minimum.accumulate(np.where(found_FV, place_F1, rows)[::-1])[::-1]
    has_before_FV, has_after_FV = before_FV >= 0, after_FV < rows
    low_FV = np.where(has_before_FV, before_FV, np.minimum(after_FV, rows - 1))
    high_FV = np.where(has_after_FV, after_FV, low_FV)
    from_FV, to_FV, now_F1 = body.frame_F[low_FV], body.frame_F[high_FV], body.frame_F[:, None]
    # An inner gap is measured between its neighbours, one at an end from its only neighbour.
    length_FV = np.where(has_before_FV & has_after_FV, to_FV - from_FV - 1, np.abs(now_F1 - from_FV))
    fillable_FV = ~found_FV & (has_before_FV | has_after_FV) & (length_FV <= gap)
    share_FV = (now_F1 - from_FV) / np.maximum(to_FV - from_FV, 1)
    low_FVC, high_FVC = body.joints_FV3[low_FV, column_V], body.joints_FV3[high_FV, column_V]
    between_FVC = low_FVC + (high_FVC - low_FVC) * share_FV[..., None].clip(0, 1).astype(np.float32)
    if spline:
        inner_FV = fillable_FV & has_before_FV & has_after_FV
        between_FVC = np.where(inner_FV[..., None], _splines(body, found_FV, inner_FV, between_FVC), between_FVC)
    joints_FVC = np.where(fillable_FV[..., None], between_FVC, body.joints_FV3).astype(np.float32)
    marks = body.tracked_FV
    filled_FV = np.minimum(marks[low_FV, column_V], marks[high_FV, column_V])
    return body._replace(joints_FV3=joints_FVC, tracked_FV=np.where(fillable_FV, filled_FV, marks))


def _splines(body: Body, found_FV: np.ndarray, wanted_FV: np.ndarray, linear_FVC: np.ndarray) -> np.ndarray:
    """Return the wanted places on the cubic spline of each joint; elsewhere the linear ones."""
    from scipy.interpolate import CubicSpline  # noqa: PLC0415 - a build without splines starts faster

    curved_FVC = linear_FVC.copy()
    for joint in np.flatnonzero(wanted_FV.any(axis=0)):
        knots_F, wanted_F = found_FV[:, joint], wanted_FV[:, joint]
        if knots_F.sum() >= LEAST_KNOTS:
            curve = CubicSpline(body.frame_F[knots_F], body.joints_FV3[knots_F, joint])
            curved_FVC[wanted_F, joint] = curve(body.frame_F[wanted_F])
    return curved_FVC


def smooth(scene: Scene, frames: float) -> Result:
    """Replace each joint by its mean over a Hann window of `frames` frames; an absent joint neither counts nor changes.

    The window is laid over the true frames, so that a body's absence is not closed.
    """
    bodies = tuple(body._replace(joints_FV3=_smoothed(body, int(frames))) for body in scene.bodies)
    return scene._replace(bodies=bodies), []


def _smoothed(body: Body, frames: int) -> np.ndarray:
    first = int(body.frame_F[0])
    length = int(body.frame_F[-1]) - first + 1
    found_TV = np.zeros((length, body.joints_FV3.shape[1]), np.float64)
    found_TV[body.frame_F - first] = found(body)
    joints_TVC = np.zeros((length, *body.joints_FV3.shape[1:]), np.float64)
    joints_TVC[body.frame_F - first] = body.joints_FV3
    joints_TVC *= found_TV[..., None]
    window = np.hanning(frames + 2)[1:-1]
    reach = frames // 2
    sum_TVC, weight_TV = np.zeros_like(joints_TVC), np.zeros_like(found_TV)
    for offset, weight in zip(range(-reach, reach + 1), window, strict=True):
        here, there = (
            slice(max(0, -offset), min(length, length - offset)),
            slice(max(0, offset), length + min(0, offset)),
        )
        sum_TVC[here] += weight * joints_TVC[there]
        weight_TV[here] += weight * found_TV[there]
    mean_TVC = sum_TVC / np.maximum(weight_TV, 1e-12)[..., None]
    kept_FV1 = found(body)[..., None]
    return np.where(kept_FV1, mean_TVC[body.frame_F - first], body.joints_FV3).astype(np.float32)

"""Data types of the stages (the bodies of one clip, the effects of a rule) and functions that several stages share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Body(NamedTuple):
    """One body of a clip between two stages; F of the clip's frames."""

    body_id: int
    frame_F: np.ndarray  # int64, ascending, indices of the clip's frames
    joints_FV3: np.ndarray  # float32, metres; zero where a joint is absent
    motion: float  # square metres, see `motion`
    tracked_FV: np.ndarray | None = None  # bool, or a score whose 0 means absent; None: no joint is absent


Bodies = tuple[Body, ...]


class Scene(NamedTuple):
    """One clip between two stages."""

    frames: int
    bodies: Bodies
    recorded: int  # bodies in the recording, before any stage


Effect = tuple[int, str, float, float]  # body ID, rule, measured value, threshold
Result = tuple[Scene, list[Effect]]


class StageError(ValueError):
    """A stage cannot process a clip; `reason` is a short code, the message explains it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def motion(joints_FV3: np.ndarray, tracked_FV: np.ndarray | None = None) -> float:
    """Sum of the variances of the coordinates over all joints that were found, in square metres; 0 without any."""
    from preprocessing.stages.compiled import variances

    if tracked_FV is None:
        return float(variances(joints_FV3.reshape(-1, joints_FV3.shape[2])))
    found_XC = joints_FV3[tracked_FV > 0]
    return float(variances(found_XC)) if len(found_XC) else 0.0


def extents(joints_FV3: np.ndarray) -> np.ndarray:
    """Width and height of a body per frame: (F, 2) float32 metres."""
    from preprocessing.stages import compiled

    extent_F2: np.ndarray = compiled.extents(joints_FV3)
    return extent_F2


def body_extents(body: Body) -> np.ndarray:
    """Width and height per frame of the joints that were found: (F, 2) float32 metres; zero without any."""
    if body.tracked_FV is None:
        return extents(body.joints_FV3)
    found_FV1 = (body.tracked_FV > 0)[..., None]
    high_F2 = np.where(found_FV1, body.joints_FV3[..., :2], -np.inf).max(axis=1)
    low_F2 = np.where(found_FV1, body.joints_FV3[..., :2], np.inf).min(axis=1)
    return np.where(found_FV1.any(axis=1), high_F2 - low_F2, 0).astype(np.float32)


def found(body: Body) -> np.ndarray:
    """Joints of a body that were found: (F, V) bool."""
    if body.tracked_FV is None:
        return np.ones(body.joints_FV3.shape[:2], bool)
    return body.tracked_FV > 0


def every_joint(present: np.ndarray, joints: int) -> np.ndarray:
    """Marks of bodies without a gap: (..., V), all joints where a body is present."""
    return np.repeat(present[..., None], joints, axis=-1)


def rows_of(body: Body, keep_F: np.ndarray) -> Body:
    """Return the body with some of its rows: a mask, or positions."""
    tracked_FV = None if body.tracked_FV is None else body.tracked_FV[keep_F]
    return body._replace(frame_F=body.frame_F[keep_F], joints_FV3=body.joints_FV3[keep_F], tracked_FV=tracked_FV)


def overlap(one: Body, other: Body) -> bool:
    """Return whether two bodies are tracked in a common frame."""
    return bool(np.isin(one.frame_F, other.frame_F, assume_unique=True).any())


def merge(one: Body, other: Body) -> Body:
    """Merge two bodies that share no frame; the result has the ID of the first and the motion of both."""
    frame_F = np.concatenate([one.frame_F, other.frame_F])
    order = np.argsort(frame_F)
    joints_FV3 = np.concatenate([one.joints_FV3, other.joints_FV3])[order]
    tracked_FV = None
    if one.tracked_FV is not None or other.tracked_FV is not None:
        marks = [found(body) if body.tracked_FV is None else body.tracked_FV for body in (one, other)]
        tracked_FV = np.concatenate(marks)[order]
    return Body(one.body_id, frame_F[order], joints_FV3, motion(joints_FV3, tracked_FV), tracked_FV)


def dense(scene: Scene) -> np.ndarray:
    """Bodies in their slots as one array: (M, T, V, 3) float32, rows of absent frames zero."""
    joints_MTV3 = np.zeros((len(scene.bodies), scene.frames, *scene.bodies[0].joints_FV3.shape[1:]), np.float32)
    for slot, body in enumerate(scene.bodies):
        joints_MTV3[slot, body.frame_F] = body.joints_FV3
    return joints_MTV3


def dense_tracked(scene: Scene) -> np.ndarray | None:
    """Marks of joints that were found: (M, T, V) bool or scores, 0 where absent; None if no joint of a body is."""
    marks = [body.tracked_FV for body in scene.bodies if body.tracked_FV is not None]
    if all(np.all(marks_FV) and marks_FV.dtype == bool for marks_FV in marks):
        return None
    dtype = np.result_type(*marks)
    tracked_MTV = np.zeros((len(scene.bodies), scene.frames, scene.bodies[0].joints_FV3.shape[1]), dtype)
    for slot, body in enumerate(scene.bodies):
        tracked_MTV[slot, body.frame_F] = 1 if body.tracked_FV is None else body.tracked_FV
    return tracked_MTV

"""Data types of the stages (the bodies of one clip, the effects of a rule) and functions that several stages share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit


class Body(NamedTuple):
    """One body of a clip between two stages; F of the clip's frames."""

    body_id: int
    frame_F: np.ndarray  # int64, ascending, indices of the clip's frames
    joints_FV3: np.ndarray  # float32, metres
    motion: float  # square metres, see `motion`


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


@njit(nogil=True, cache=True)
def _variances(points_X3):  # type: ignore[no-untyped-def]
    """Sum of the population variances of the three columns, in double precision, in two passes."""
    total = 0.0
    for axis in range(3):
        mean = 0.0
        for point in range(points_X3.shape[0]):
            mean += points_X3[point, axis]
        mean /= points_X3.shape[0]
        square = 0.0
        for point in range(points_X3.shape[0]):
            square += (points_X3[point, axis] - mean) ** 2
        total += square / points_X3.shape[0]
    return total


def motion(joints_FV3: np.ndarray) -> float:
    """Sum of the variances of x, y and z over all joints and frames, in square metres."""
    return float(_variances(joints_FV3.reshape(-1, 3)))


@njit(nogil=True, cache=True)
def extents(joints_FV3):  # type: ignore[no-untyped-def]
    """Width and height of a body per frame: (F, 2) float32 metres."""
    extent_F2 = np.empty((joints_FV3.shape[0], 2), np.float32)
    for frame in range(joints_FV3.shape[0]):
        for axis in range(2):
            low = high = joints_FV3[frame, 0, axis]
            for joint in range(1, joints_FV3.shape[1]):
                value = joints_FV3[frame, joint, axis]
                low = min(low, value)
                high = max(high, value)
            extent_F2[frame, axis] = high - low
    return extent_F2


def overlap(one: Body, other: Body) -> bool:
    """Return whether two bodies are tracked in a common frame."""
    return bool(np.isin(one.frame_F, other.frame_F, assume_unique=True).any())


def merge(one: Body, other: Body) -> Body:
    """Merge two bodies that share no frame; the result has the ID of the first and the motion of both."""
    frame_F = np.concatenate([one.frame_F, other.frame_F])
    order = np.argsort(frame_F)
    joints_FV3 = np.concatenate([one.joints_FV3, other.joints_FV3])[order]
    return Body(one.body_id, frame_F[order], joints_FV3, motion(joints_FV3))


def dense(scene: Scene) -> np.ndarray:
    """Bodies in their slots as one array: (M, T, V, 3) float32, rows of absent frames zero."""
    joints_MTV3 = np.zeros((len(scene.bodies), scene.frames, *scene.bodies[0].joints_FV3.shape[1:]), np.float32)
    for slot, body in enumerate(scene.bodies):
        joints_MTV3[slot, body.frame_F] = body.joints_FV3
    return joints_MTV3

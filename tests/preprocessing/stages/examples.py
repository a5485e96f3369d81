"""Bodies for the tests of stages."""

from collections.abc import Sequence

import numpy as np

from preprocessing.skeleton import Track
from preprocessing.stages import Landmarks, Stage, recipe
from preprocessing.stages.bodies import Body, motion

T = 40
LANDMARKS = Landmarks(1, (4, 8), (20, 0))


def track(body: int, frames: Sequence[int], swing: float, x: float = 0.0, wide: bool = False) -> Track:
    """A body at `x` that moves along z by `swing` metres over the clip."""
    frame_F = np.array(frames, np.int64)
    joint = np.arange(25)
    rest_V3 = np.stack([0.01 * joint * (20 if wide else 1), np.linspace(0.1, 1.7, 25), np.full(25, 3.0)], axis=1)
    move_F3 = np.stack([np.full(len(frame_F), x), np.zeros(len(frame_F)), swing * np.sin(frame_F)], axis=1)
    return Track(body, frame_F, (rest_V3 + move_F3[:, None]).astype(np.float32))


def as_body(one: Track, moves: float | None = None) -> Body:
    """A track as stages take it; `moves` replaces its motion."""
    moves = motion(one.joints_FV3, one.tracked_FV) if moves is None else moves
    return Body(one.body_id, one.frame_F, one.joints_FV3, moves, one.tracked_FV)


def exact(*add: str) -> tuple[Stage, ...]:
    """Recipe exact with optional stages."""
    return recipe("exact", True, LANDMARKS, add)

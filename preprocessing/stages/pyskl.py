"""Stages of recipe pyskl: its build script up to `half`, then what it does on loading."""

from __future__ import annotations

import numpy as np

from preprocessing.stages.bodies import Effect, Result, Scene, StageError, dense
from preprocessing.stages.published import two_slots, without_wide_frames

BLANK = 1e-3  # metres: a frame or joint whose absolute coordinates sum to less is absent
PARALLEL = 1e-6  # radians and square metres: below this, two directions are the same
CLOSE = 1e-8  # metres: a frame in which no coordinate is farther from zero is absent


def spread(scene: Scene, width: float, share: float) -> Result:
    """Of several bodies, drop the wide ones; StageError if all are wide."""
    if len(scene.bodies) < 2:
        return scene, []
    measured = [without_wide_frames(body, width) for body in scene.bodies]
    kept = tuple(calm for noisy, calm in measured if noisy < share)
    if not kept:
        raise StageError("all-wide", "every body is wider than tall; recipe exact keeps the best-moving one")
    return scene._replace(bodies=kept), [(b.body_id, "spread", noisy, share) for noisy, b in measured if noisy >= share]


def actors(scene: Scene) -> Result:
    """Assign several bodies to two slots; of a lone body keep only the frames in which it is tracked."""
    if len(scene.bodies) > 1:
        end = max(int(body.frame_F[-1]) + 1 for body in scene.bodies)
        return two_slots(scene._replace(frames=end), overlap=0)
    (body,) = scene.bodies
    rows = len(body.frame_F)
    return scene._replace(frames=rows, bodies=(body._replace(frame_F=np.arange(rows)),)), []


def trim(scene: Scene) -> Result:
    """With two slots, trim empty frames at both ends; swap the slots if only the second is present at the start."""
    if len(scene.bodies) < 2:
        return scene, []
    joints_MTV3 = dense(scene)
    filled = np.flatnonzero(np.abs(joints_MTV3).sum(axis=(0, 2, 3)) >= BLANK)
    if not len(filled):
        raise StageError("no-actor", "no frame contains a body")
    start, end = int(filled[0]), int(filled[-1]) + 1
    bodies = []
    for body in scene.bodies:
        inside_F = (body.frame_F >= start) & (body.frame_F < end)
        bodies.append(body._replace(frame_F=body.frame_F[inside_F] - start, joints_FV3=body.joints_FV3[inside_F]))
    first, second = (float(np.abs(joints_TV3[start, 1]).sum()) for joints_TV3 in joints_MTV3)
    effects: list[Effect] = []
    if first < BLANK <= second:
        bodies.reverse()
        effects.append((bodies[0].body_id, "swap", first, BLANK))
    return scene._replace(frames=end - start, bodies=tuple(bodies)), effects


def half(scene: Scene) -> Result:
    """Round coordinates to half precision as pyskl stores them: 2 to 4 mm at a distance of some metres."""
    rounded = (body._replace(joints_FV3=body.joints_FV3.astype(np.float16).astype(np.float32)) for body in scene.bodies)
    return scene._replace(bodies=tuple(rounded)), []


def _turn(from_3: np.ndarray, to_3: np.ndarray) -> np.ndarray:
    """Smallest rotation (3, 3) from one direction to another (Rodrigues' formula); the identity if they agree."""
    axis_3 = np.cross(from_3, to_3)
    norm = float(np.linalg.norm(from_3))
    if np.abs(axis_3).sum() < PARALLEL or norm < PARALLEL:
        return np.eye(3)
    angle = float(np.arccos(np.clip(from_3 @ to_3 / norm, -1.0, 1.0)))
    if abs(angle) < PARALLEL:
        return np.eye(3)
    x, y, z = axis_3 / np.linalg.norm(axis_3)
    cross_33 = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross_33 + (1 - np.cos(angle)) * (cross_33 @ cross_33)


def normalize(scene: Scene, joint: float, align: float) -> Result:
    """Normalize as pyskl does on loading: keep the frames of the body seen longer, centre, and rotate with `align`.

    The spine of the first frame is rotated to +z, then its shoulders to +x. The second rotation tilts the spine again.
    """
    joints_MTV3 = dense(scene)
    seen_MT = (np.abs(joints_MTV3) > CLOSE).any(axis=(2, 3))
    bodies = scene.bodies
    effects: list[Effect] = []
    if len(bodies) > 1 and seen_MT[1].sum() > seen_MT[0].sum():
        bodies, joints_MTV3, seen_MT = bodies[::-1], joints_MTV3[::-1], seen_MT[::-1]
        effects.append((bodies[0].body_id, "main-swap", float(seen_MT[0].sum()), float(seen_MT[1].sum())))
    main_T = np.flatnonzero(seen_MT[0])
    if not len(main_T):
        raise StageError("no-actor", "no frame contains a body")
    if gone := scene.frames - len(main_T):
        effects.append((bodies[0].body_id, "main-frames", float(gone), 0.0))
    joints_MTV3 = joints_MTV3[:, main_T]
    filled_MTV1 = np.any(joints_MTV3, axis=-1, keepdims=True)
    joints_MTV3 = (joints_MTV3 - joints_MTV3[0, 0, int(joint)]) * filled_MTV1
    if align:
        first_V3 = joints_MTV3[0, 0].astype(np.float64)
        spine_33 = _turn(first_V3[1] - first_V3[0], np.array([0.0, 0.0, 1.0]))
        first_V3 = first_V3 @ spine_33.T
        across_33 = _turn(first_V3[8] - first_V3[4], np.array([1.0, 0.0, 0.0]))
        joints_MTV3 = (joints_MTV3 @ (across_33 @ spine_33).T).astype(np.float32)
    made = []
    for slot, body in enumerate(bodies):
        seen_T = np.flatnonzero(filled_MTV1[slot].any(axis=(1, 2)))
        made.append(body._replace(frame_F=seen_T, joints_FV3=joints_MTV3[slot, seen_T]))
    return scene._replace(frames=len(main_T), bodies=tuple(made)), effects

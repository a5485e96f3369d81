"""Stages of recipe ctr: the cleaning of CTR-GCN (and of MS-G3D before it)."""

from __future__ import annotations

import numpy as np

from preprocessing.stages.bodies import Body, Effect, Result, Scene, StageError, dense
from preprocessing.stages.published import two_slots, without_wide_frames


def spread(scene: Scene, width: float, share: float) -> Result:
    """Drop wide bodies in order of appearance until one is left; that one stays even if it is wide."""
    kept: list[Body] = []
    effects: list[Effect] = []
    left = len(scene.bodies)
    for body in scene.bodies:
        if left == 1:
            kept.append(body)
            continue
        noisy, calm = without_wide_frames(body, width)
        if noisy >= share:
            left -= 1
            effects.append((body.body_id, "spread", noisy, share))
        else:
            kept.append(calm)
    return scene._replace(bodies=tuple(kept)), effects


def actors(scene: Scene) -> Result:
    """Assign several bodies to two slots; one common frame counts as no overlap."""
    return two_slots(scene, overlap=1) if len(scene.bodies) > 1 else (scene, [])


def missing(scene: Scene) -> Result:
    """Remove frames whose coordinates sum to exactly zero from a clip recorded with several bodies."""
    if scene.recorded < 2:
        return scene, []
    joints_MTV3 = dense(scene)
    joints_TD = np.ascontiguousarray(joints_MTV3.transpose(1, 0, 2, 3)).reshape(scene.frames, -1)
    keep_T = joints_TD.sum(axis=1) != 0
    if keep_T.all():
        return scene, []
    new_T = np.cumsum(keep_T) - 1
    bodies = []
    for body in scene.bodies:
        keep_F = keep_T[body.frame_F]
        bodies.append(body._replace(frame_F=new_T[body.frame_F[keep_F]], joints_FV3=body.joints_FV3[keep_F]))
    gone = float(len(keep_T) - keep_T.sum())
    effect: Effect = (scene.bodies[0].body_id, "missing-frames", gone, 0.0)
    return scene._replace(frames=int(keep_T.sum()), bodies=tuple(bodies)), [effect]


def centre(scene: Scene, joint: float) -> Result:
    """Translate all bodies so that `joint` of actor 1 is the origin in its first row that is not zero.

    Of two bodies, one is absent where its coordinates sum to zero. A lone body is present in every frame, and its zero
    rows become minus the origin.
    """
    first = scene.bodies[0]
    filled = _first_filled(first.joints_FV3)
    if filled < 0:
        raise StageError("no-actor", "all rows of the first actor are zero; recipe exact may still use the clip")
    origin_3 = first.joints_FV3[filled, int(joint)]
    if len(scene.bodies) == 1:
        whole = len(first.frame_F) == scene.frames
        joints_TV3 = (first.joints_FV3 if whole else dense(scene)[0]) - origin_3
        return scene._replace(bodies=(first._replace(frame_F=np.arange(scene.frames), joints_FV3=joints_TV3),)), []
    bodies = []
    for body in scene.bodies:
        seen_F = body.joints_FV3.reshape(len(body.frame_F), 3 * body.joints_FV3.shape[1]).sum(axis=1) != 0
        bodies.append(body._replace(frame_F=body.frame_F[seen_F], joints_FV3=body.joints_FV3[seen_F] - origin_3))
    return scene._replace(bodies=tuple(bodies)), []


def _first_filled(joints_FV3: np.ndarray) -> int:
    """Return the first row that is not all zero, or -1."""
    for row, joints_V3 in enumerate(joints_FV3):
        if joints_V3.any():
            return row
    return -1

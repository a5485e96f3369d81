"""Stages that choose bodies of sources that hold more than two, or copies."""

from __future__ import annotations

import numpy as np

from preprocessing.stages.bodies import Body, Effect, Result, Scene


def copied(scene: Scene) -> Result:
    """Drop bodies that equal an earlier one in every frame: some files hold a copy in place of an absent actor."""
    kept: list[Body] = []
    effects: list[Effect] = []
    for body in scene.bodies:
        same = any(
            np.array_equal(body.frame_F, one.frame_F) and np.array_equal(body.joints_FV3, one.joints_FV3)
            for one in kept
        )
        if same:
            effects.append((body.body_id, "copied", 0.0, 0.0))
        else:
            kept.append(body)
    return scene._replace(bodies=tuple(kept)), effects


def people(scene: Scene, slots: float, by_score: float) -> Result:
    """Keep `slots` bodies: those with the highest score, or those that move most; the best comes first.

    The score of a body is the mean over the joints of all frames of the clip, 0 where it was not found: a body that
    is seen in one frame does not win by that frame.
    """
    if len(scene.bodies) <= slots:
        return scene, []
    values = [_score(body, scene.frames) if by_score else body.motion for body in scene.bodies]
    order = sorted(range(len(values)), key=lambda index: -values[index])
    chosen, least = order[: int(slots)], values[order[int(slots) - 1]]
    rule = "people-score" if by_score else "people-motion"
    effects = [(scene.bodies[i].body_id, rule, values[i], least) for i in range(len(values)) if i not in chosen]
    return scene._replace(bodies=tuple(scene.bodies[index] for index in chosen)), effects


def _score(body: Body, frames: int) -> float:
    """Mean score over all joints and the clip's frames; a body without scores counts as found."""
    if body.tracked_FV is None:
        return len(body.frame_F) / frames
    return float(body.tracked_FV.astype(np.float64).sum()) / (frames * body.tracked_FV.shape[1])

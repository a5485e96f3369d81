"""Stages: pure functions on the bodies of one clip, and the recipes made of them.

A stage takes a `Scene` and its parameters; it returns the new scene and one decision per body that it changed or
dropped. To add a stage: write the function in the file of its recipe, add one line to `STAGES`, and place it in a
recipe of `recipes.RECIPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.stages import ctr, exact, gaps, people, published, pyskl
from preprocessing.stages.bodies import Body, Result, Scene, StageError, dense, dense_tracked, motion
from preprocessing.stages.recipes import OPTIONAL, RECIPES, Landmarks, Stage, describe, recipe

__all__ = [
    "OPTIONAL", "RECIPES", "STAGES", "Clip", "Decision", "Landmarks", "Scene", "Stage", "apply", "describe", "recipe",
    "run",
]  # fmt: skip


class Decision(NamedTuple):
    """The effect of a rule on one body: the measured value and the threshold that it was compared with."""

    clip: str
    body: int
    rule: str
    value: float
    threshold: float


class Clip(NamedTuple):
    """A finished clip: M bodies in their slots, rows of absent frames zero."""

    joints_MTV3: np.ndarray  # float32, metres
    present_MT: np.ndarray  # bool
    decisions: tuple[Decision, ...]
    tracked_MTV: np.ndarray | None = None  # bool, or a score whose 0 means absent; None: no joint is absent


STAGES: dict[str, Callable[..., Result]] = {
    "absent": gaps.absent,
    "join": exact.join,
    "length": exact.length,
    "spread": exact.spread,
    "motion": exact.still,
    "actors": exact.actors,
    "copied": people.copied,
    "people": people.people,
    "unit": exact.unit,
    "fill": gaps.fill,
    "smooth": gaps.smooth,
    "centre": exact.centre,
    "yaw": exact.yaw,
    "size": exact.size,
    "compact": published.compact,
    "peer-length": published.length,
    "ctr-spread": ctr.spread,
    "ctr-actors": ctr.actors,
    "ctr-missing": ctr.missing,
    "ctr-centre": ctr.centre,
    "pyskl-spread": pyskl.spread,
    "pyskl-actors": pyskl.actors,
    "pyskl-trim": pyskl.trim,
    "half": pyskl.half,
    "pyskl-normalize": pyskl.normalize,
}
"""Stage name, as stored in data files -> function."""

PUBLISHED = tuple(stage.name for name in ("ctr", "pyskl") for stage in RECIPES[name])
"""Stages that take every joint for present, as their originals do."""


def apply(name: str, raw: RawClip, stages: tuple[Stage, ...]) -> Clip:
    """Run the stages on a raw clip that has at least one body.

    Args:
        name: Name of the clip, for decisions and errors.
        raw: The clip as recorded.
        stages: Stages in order; see `recipe`.

    Raises:
        SkeletonError: A stage cannot process the clip.
    """
    scene, decisions = run(name, raw, stages)
    if len(scene.bodies) == 1 and len(scene.bodies[0].frame_F) == scene.frames:  # the common case, without a copy
        joints_MTV3, present_MT = scene.bodies[0].joints_FV3[None], np.ones((1, scene.frames), bool)
        return Clip(joints_MTV3, present_MT, tuple(decisions), dense_tracked(scene))
    present_MT = np.zeros((len(scene.bodies), scene.frames), bool)
    for slot, body in enumerate(scene.bodies):
        present_MT[slot, body.frame_F] = True
    return Clip(dense(scene), present_MT, tuple(decisions), dense_tracked(scene))


def run(name: str, raw: RawClip, stages: tuple[Stage, ...]) -> tuple[Scene, list[Decision]]:
    """Run the stages in order; return the resulting scene and all decisions."""
    if not any(stage.name == "absent" for stage in stages):
        _check_finite(name, raw)
    # Motion is only compared between bodies, so a lone body needs none.
    several = len(raw.tracks) > 1
    bodies = tuple(_body(track, several) for track in raw.tracks)
    scene = Scene(raw.frames, bodies, len(raw.tracks))
    marked = any(body.tracked_FV is not None for body in bodies)
    if marked and (published := [stage.name for stage in stages if stage.name in PUBLISHED]):
        message = f"joints are absent, and stage {published[0]} takes every joint for present; use recipe exact"
        raise SkeletonError(name, 0, "absent-joints", message)
    decisions: list[Decision] = []
    for stage in stages:
        try:
            scene, effects = STAGES[stage.name](scene, **stage.parameters)
        except StageError as error:
            raise SkeletonError(name, 0, error.reason, str(error)) from None
        decisions += [Decision(name, *effect) for effect in effects]
    return scene, decisions


def _body(track: Track, several: bool) -> Body:
    moves = motion(track.joints_FV3, track.tracked_FV) if several else 0.0
    joints_FV3 = track.joints_FV3
    if track.tracked_FV is not None:
        joints_FV3 = np.where((track.tracked_FV > 0)[..., None], joints_FV3, np.float32(0))
    return Body(track.body_id, track.frame_F, joints_FV3, moves, track.tracked_FV)


def _check_finite(name: str, raw: RawClip) -> None:
    """Raise SkeletonError for NaN or infinity, which only stage `absent` understands."""
    for track in raw.tracks:
        if not np.isfinite(track.joints_FV3).all():
            row, joint = (int(place) for place in np.argwhere(~np.isfinite(track.joints_FV3).all(axis=-1))[0])
            message = f"joint {joint} of body {track.body_id} in frame {track.frame_F[row]} is NaN or infinite"
            raise SkeletonError(name, 0, "non-finite", message)

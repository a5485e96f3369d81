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
from preprocessing.stages import ctr, exact, people, published, pyskl
from preprocessing.stages.bodies import Body, Result, Scene, StageError, dense, dense_tracked, motion
from preprocessing.stages.recipes import OPTIONAL, RECIPES, Landmarks, Stage, describe, recipe

__all__ = [
    "OPTIONAL", "RECIPES", "STAGES", "Clip", "Decision", "Landmarks", "Stage", "apply", "describe", "recipe", "run",
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
    "join": exact.join,
    "length": exact.length,
    "spread": exact.spread,
    "motion": exact.still,
    "actors": exact.actors,
    "copied": people.copied,
    "people": people.people,
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

EXACT = tuple(name for name, stage in STAGES.items() if stage.__module__ in (exact.__name__, people.__name__))
"""Stages that know absent joints; the published ones take every joint for present."""


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
    # Motion is only compared between bodies, so a lone body needs none.
    several = len(raw.tracks) > 1
    bodies = tuple(_body(track, several) for track in raw.tracks)
    scene = Scene(raw.frames, bodies, len(raw.tracks))
    gaps = any(body.tracked_FV is not None for body in bodies)
    if gaps and (published := [stage.name for stage in stages if stage.name not in EXACT]):
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

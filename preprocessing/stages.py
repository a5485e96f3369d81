"""Pure functions on clips, one per stage, and the recipes made of them. Every drop leaves a decision record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from preprocessing import peers
from preprocessing.bodies import Bodies, Body, Finding, Result, Scene, StageError, extents, merge, motion, shares
from preprocessing.skeleton import RawClip, SkeletonError


class Decision(NamedTuple):
    """What a rule did to a body: the value it measured and the threshold it compared with."""

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


class Stage(NamedTuple):
    """A stage of a recipe; `kinect` marks those that make sense for a sensor's raw tracks only."""

    name: str
    parameters: Mapping[str, float]
    kinect: bool = True


def join(scene: Scene, gap: float, distance: float) -> Result:
    """Join a body to one that vanished at most `gap` frames earlier, `distance` metres (mean of joints) away.

    The tracker sometimes gives a person a new ID in mid-sequence; only bodies that share no frame are joined.
    """
    if len(scene.bodies) < 2:
        return scene, []
    joined: list[Body] = []
    findings: list[Finding] = []
    for body in sorted(scene.bodies, key=lambda b: int(b.frame_F[0])):
        best, nearest = -1, distance
        for index, earlier in enumerate(joined):
            before = int(np.searchsorted(earlier.frame_F, body.frame_F[0])) - 1
            if body.frame_F[0] - earlier.frame_F[before] > gap or shares(earlier, body):
                continue
            jump = float(np.linalg.norm(earlier.joints_FV3[before] - body.joints_FV3[0], axis=-1).mean())
            if jump <= nearest:
                best, nearest = index, jump
        if best < 0:
            joined.append(body)
        else:
            findings.append((body.body_id, "join", nearest, distance))
            joined[best] = merge(joined[best], body)
    return scene._replace(bodies=tuple(joined)), findings


def length(scene: Scene, frames: float) -> Result:
    """Of several bodies, drop those tracked in `frames` frames or fewer."""
    if len(scene.bodies) < 2:
        return scene, []
    short = [len(body.frame_F) <= frames for body in scene.bodies]
    return _drop(scene, short, "length", [float(len(body.frame_F)) for body in scene.bodies], frames)


def spread(scene: Scene, width: float, share: float) -> Result:
    """Of several bodies, drop those wider than `width` of their height in `share` of their frames: ghosts.

    A body that stays is judged by its motion in its other frames, where that is less.
    """
    if len(scene.bodies) < 2:
        return scene, []
    noisy: list[float] = []
    judged: list[Body] = []
    for body in scene.bodies:
        extent_F2 = extents(body.joints_FV3)
        good_F = extent_F2[:, 0] <= width * extent_F2[:, 1]
        noisy.append(float(1 - good_F.mean()))
        calm = min(body.motion, motion(body.joints_FV3[good_F])) if good_F.any() else body.motion
        judged.append(body._replace(motion=calm))
    return _drop(scene._replace(bodies=tuple(judged)), [value >= share for value in noisy], "spread", noisy, share)


def still(scene: Scene, least: float, most: float) -> Result:
    """Of several bodies, drop those but the best-moving one that move less than `least` or more than `most`.

    Off unless asked for: it takes furniture and tracking jitter for what they are, and quiet partners with them.
    """
    if len(scene.bodies) < 2:
        return scene, []
    best = max(range(len(scene.bodies)), key=lambda i: scene.bodies[i].motion)
    kept: list[Body] = []
    findings: list[Finding] = []
    for index, body in enumerate(scene.bodies):
        if index == best or least <= body.motion <= most:
            kept.append(body)
        else:
            findings.append((body.body_id, "motion", body.motion, least if body.motion < least else most))
    return scene._replace(bodies=tuple(kept)), findings


def _drop(scene: Scene, doomed: list[bool], rule: str, values: list[float], threshold: float) -> Result:
    """Drop the doomed; where that is everybody, keep the best-moving one and say so."""
    bodies = scene.bodies
    kept = max(range(len(bodies)), key=lambda i: bodies[i].motion) if all(doomed) else -1
    findings = [
        (body.body_id, f"{rule}-kept-best" if index == kept else rule, values[index], threshold)
        for index, body in enumerate(bodies)
        if doomed[index]
    ]
    left = tuple(body for index, body in enumerate(bodies) if not doomed[index] or index == kept)
    return scene._replace(bodies=left), findings


def actors(scene: Scene, slots: float) -> Result:
    """Put bodies into `slots` slots, best-moving first; one that shares no frame with a slot continues it.

    What is free is read from the frames themselves, not from an interval around them, so a gap can be filled.
    """
    if len(scene.bodies) < 2:
        return scene, []
    filled: list[Body] = []
    findings: list[Finding] = []
    for body in sorted(scene.bodies, key=lambda b: -b.motion):
        free = next((index for index, taken in enumerate(filled) if not shares(taken, body)), -1)
        if free >= 0:
            findings.append((body.body_id, "actors-continued", body.motion, filled[free].motion))
            # The slot keeps the motion of its best mover, which decided its place.
            filled[free] = merge(filled[free], body)._replace(motion=filled[free].motion)
        elif len(filled) < slots:
            filled.append(body)
        else:
            findings.append((body.body_id, "actors", body.motion, min(taken.motion for taken in filled)))
    return scene._replace(bodies=tuple(filled)), findings


def centre(scene: Scene, joint: float) -> Result:
    """Move all bodies so that `joint` of actor 1 is the origin in the first frame in which actor 1 is tracked."""
    origin_3 = scene.bodies[0].joints_FV3[0, int(joint)]
    return _each(scene, lambda joints_FV3: joints_FV3 - origin_3), []


def yaw(scene: Scene, left: float, right: float) -> Result:
    """Turn all bodies about the vertical through the origin, until actor 1's shoulders lie along x in its first frame.

    Its right shoulder (joint `right`) then has the larger x and its `left` one the same depth, as of one who faces the
    Kinect. The vertical is untouched, so who bends, lies or jumps still does. Shoulders above each other have no
    heading; then nothing turns.
    """
    first_V3 = scene.bodies[0].joints_FV3[0].astype(np.float64)
    x, _, z = first_V3[int(right)] - first_V3[int(left)]
    width = float(np.hypot(x, z))
    if width < LEAST_WIDTH:
        return scene, [(scene.bodies[0].body_id, "yaw-undefined", width, LEAST_WIDTH)]
    turn_33 = np.array([[x, 0, z], [0, width, 0], [-z, 0, x]]) / width
    return _each(scene, lambda joints_FV3: (joints_FV3 @ turn_33.T).astype(np.float32)), []


def size(scene: Scene, top: float, bottom: float, metres: float) -> Result:
    """Scale the scene so that actor 1's spine, from joint `bottom` to `top`, measures `metres` (median of its frames).

    One factor for all bodies, so that who is taller, and how far apart they stand, keeps its proportion.
    """
    joints_FV3 = scene.bodies[0].joints_FV3
    spine = float(np.median(np.linalg.norm(joints_FV3[:, int(top)] - joints_FV3[:, int(bottom)], axis=-1)))
    if spine < LEAST_WIDTH:
        return scene, [(scene.bodies[0].body_id, "size-undefined", spine, LEAST_WIDTH)]
    factor = np.float32(metres / spine)
    return _each(scene, lambda joints_FV3: joints_FV3 * factor), []


def _each(scene: Scene, change: Callable[[np.ndarray], np.ndarray]) -> Scene:
    """The scene with the joints of every body changed."""
    bodies: Bodies = tuple(body._replace(joints_FV3=change(body.joints_FV3)) for body in scene.bodies)
    return scene._replace(bodies=bodies)


LEAST_WIDTH = 0.01  # metres: a heading or a length read from less is noise

STAGES: dict[str, Callable[..., Result]] = {
    "join": join,
    "length": length,
    "spread": spread,
    "motion": still,
    "actors": actors,
    "centre": centre,
    "yaw": yaw,
    "size": size,
    "compact": peers.compact,
    "peer-length": peers.peer_length,
    "ctr-spread": peers.ctr_spread,
    "ctr-actors": peers.ctr_actors,
    "ctr-missing": peers.ctr_missing,
    "ctr-centre": peers.ctr_centre,
    "pyskl-spread": peers.pyskl_spread,
    "pyskl-actors": peers.pyskl_actors,
    "pyskl-trim": peers.pyskl_trim,
    "half": peers.half,
    "pyskl-normalize": peers.pyskl_normalize,
}

RECIPES: dict[str, tuple[Stage, ...]] = {
    "exact": (
        # Before `length`, which would otherwise drop the pieces of a body whose ID changed.
        Stage("join", {"gap": 2, "distance": 0.5}),
        Stage("length", {"frames": 11}),
        Stage("spread", {"width": 0.8, "share": 0.69754}),
        Stage("motion", {"least": 0.089925, "most": 2.0}),
        Stage("actors", {"slots": 2}),
        Stage("centre", {}, kinect=False),
        Stage("yaw", {}, kinect=False),
        Stage("size", {"metres": 0.5}, kinect=False),
    ),
    "ctr": (
        Stage("compact", {}),
        Stage("peer-length", {"frames": 11}),
        Stage("ctr-spread", {"width": 0.8, "share": 0.69754}),
        Stage("ctr-actors", {}),
        Stage("ctr-missing", {}),
        Stage("ctr-centre", {}),
    ),
    "pyskl": (
        Stage("compact", {}),
        Stage("peer-length", {"frames": 11}),
        Stage("pyskl-spread", {"width": 0.8, "share": 0.69754}),
        Stage("pyskl-actors", {}),
        Stage("pyskl-trim", {}),
        Stage("half", {}),
        Stage("pyskl-normalize", {"align": 1}),
    ),
}
OPTIONAL = ("motion", "yaw", "size")
"""Stages of recipe exact that run only when asked for."""


class Marks(NamedTuple):
    """Joints that stages steer by."""

    centre: int
    shoulders: tuple[int, int] | None = None  # left, right
    spine: tuple[int, int] | None = None  # top, bottom


def recipe(name: str, kinect: bool, marks: Marks, add: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages of recipe `name`, with the optional ones named in `add`.

    `kinect`: for raw tracks of the sensor, else for bodies that others have already chosen. ValueError says in one
    line what does not go together.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"recipe {name!r} is unknown; {hint}choose one of {', '.join(RECIPES)}")
    if not kinect and name != "exact":
        raise ValueError(f"recipe {name} is for raw Kinect recordings; use exact for an array file")
    for stage in add:
        if stage not in OPTIONAL:
            raise ValueError(f"--add {stage!r} is unknown; choose from {', '.join(OPTIONAL)}")
        if name != "exact":
            raise ValueError(f"--add {stage} goes with recipe exact only; {name} is kept as published")
        if stage == "motion" and not kinect:
            raise ValueError(
                "--add motion is for raw Kinect recordings; the bodies of an array file are chosen already"
            )
        if (stage == "yaw" and not marks.shoulders) or (stage == "size" and not marks.spine):
            key = "shoulders (left, right)" if stage == "yaw" else "spine (top, bottom)"
            raise ValueError(f"--add {stage} needs to know joints: give the array file an entry {key}")
    steered: dict[str, dict[str, float]] = {
        "centre": {"joint": marks.centre},
        "ctr-centre": {"joint": marks.centre},
        "pyskl-normalize": {"joint": marks.centre},
        "yaw": dict(zip(("left", "right"), marks.shoulders or (), strict=False)),
        "size": dict(zip(("top", "bottom"), marks.spine or (), strict=False)),
    }
    return tuple(
        stage._replace(parameters={**stage.parameters, **steered.get(stage.name, {})})
        for stage in RECIPES[name]
        if (kinect or not stage.kinect) and (stage.name not in OPTIONAL or stage.name in add)
    )


def describe(name: str, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """The recipe as JSON, every stage with its parameters."""
    return {"name": name, "stages": [{"stage": stage.name, **stage.parameters} for stage in stages]}


def apply(name: str, raw: RawClip, stages: tuple[Stage, ...]) -> Clip:
    """A raw clip with at least one body -> its finished clip; SkeletonError where a stage can make nothing of it."""
    scene, decisions = run(name, raw, stages)
    if len(scene.bodies) == 1 and len(scene.bodies[0].frame_F) == scene.frames:  # as in most clips
        return Clip(scene.bodies[0].joints_FV3[None], np.ones((1, scene.frames), bool), tuple(decisions))
    joints_MTV3 = np.zeros((len(scene.bodies), scene.frames, *raw.tracks[0].joints_FV3.shape[1:]), np.float32)
    present_MT = np.zeros((len(scene.bodies), scene.frames), bool)
    for slot, body in enumerate(scene.bodies):
        joints_MTV3[slot, body.frame_F] = body.joints_FV3
        present_MT[slot, body.frame_F] = True
    return Clip(joints_MTV3, present_MT, tuple(decisions))


def run(name: str, raw: RawClip, stages: tuple[Stage, ...]) -> tuple[Scene, list[Decision]]:
    """The stages one after the other: the scene they leave, and what they decided."""
    # Who moves more matters only where there is somebody to compare with.
    several = len(raw.tracks) > 1
    bodies = tuple(Body(*track, motion(track.joints_FV3) if several else 0.0) for track in raw.tracks)
    scene = Scene(raw.frames, bodies, len(raw.tracks))
    decisions: list[Decision] = []
    for stage in stages:
        try:
            scene, findings = STAGES[stage.name](scene, **stage.parameters)
        except StageError as error:
            raise SkeletonError(name, 0, error.reason, str(error)) from None
        decisions += [Decision(name, *finding) for finding in findings]
    return scene, decisions

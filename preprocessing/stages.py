"""Pure functions on clips, one per stage, and the recipes made of them. Every drop leaves a decision record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip


class Body(NamedTuple):
    """One body of a clip on its way through the stages."""

    body_id: int
    frame_F: np.ndarray  # int64, ascending, indices of the clip's frames
    joints_FV3: np.ndarray  # float32, metres
    motion: float  # square metres, see `motion`


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


Bodies = tuple[Body, ...]
Finding = tuple[int, str, float, float]  # body, rule, value, threshold
Result = tuple[Bodies, list[Finding]]


def motion(joints_FV3: np.ndarray) -> float:
    """Sum of the variances of x, y and z over all joints and frames, in square metres."""
    return float(joints_FV3.reshape(-1, 3).astype(np.float64).var(axis=0).sum())


def join(bodies: Bodies, gap: float, distance: float) -> Result:
    """Join a body to one that vanished at most `gap` frames earlier, `distance` metres (mean of joints) away.

    The tracker sometimes gives a person a new ID in mid-sequence; only bodies that share no frame are joined.
    """
    joined: list[Body] = []
    findings: list[Finding] = []
    for body in sorted(bodies, key=lambda b: int(b.frame_F[0])):
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
    return tuple(joined), findings


def shares(one: Body, other: Body) -> bool:
    """Whether two bodies are tracked in a common frame."""
    return bool(np.isin(one.frame_F, other.frame_F, assume_unique=True).any())


def merge(one: Body, other: Body) -> Body:
    """Two bodies that share no frame as one, named after the first."""
    frame_F = np.concatenate([one.frame_F, other.frame_F])
    order = np.argsort(frame_F)
    joints_FV3 = np.concatenate([one.joints_FV3, other.joints_FV3])[order]
    return Body(one.body_id, frame_F[order], joints_FV3, motion(joints_FV3))


def length(bodies: Bodies, frames: float) -> Result:
    """Of several bodies, drop those tracked in `frames` frames or fewer."""
    if len(bodies) < 2:
        return bodies, []
    short = [len(body.frame_F) <= frames for body in bodies]
    return _drop(bodies, short, "length", [float(len(body.frame_F)) for body in bodies], frames)


def spread(bodies: Bodies, width: float, share: float) -> Result:
    """Of several bodies, drop those wider than `width` of their height in `share` of their frames: ghosts.

    A body that stays is judged by its motion in its other frames, where that is less.
    """
    if len(bodies) < 2:
        return bodies, []
    noisy: list[float] = []
    judged: list[Body] = []
    for body in bodies:
        extent_F2 = np.ptp(body.joints_FV3[..., :2], axis=1)
        good_F = extent_F2[:, 0] <= width * extent_F2[:, 1]
        noisy.append(float(1 - good_F.mean()))
        calm = min(body.motion, motion(body.joints_FV3[good_F])) if good_F.any() else body.motion
        judged.append(body._replace(motion=calm))
    return _drop(tuple(judged), [value >= share for value in noisy], "spread", noisy, share)


def _drop(bodies: Bodies, doomed: list[bool], rule: str, values: list[float], threshold: float) -> Result:
    """Drop the doomed; where that is everybody, keep the best-moving one and say so."""
    kept = max(range(len(bodies)), key=lambda i: bodies[i].motion) if all(doomed) else -1
    findings = [
        (body.body_id, f"{rule}-kept-best" if index == kept else rule, values[index], threshold)
        for index, body in enumerate(bodies)
        if doomed[index]
    ]
    return tuple(body for index, body in enumerate(bodies) if not doomed[index] or index == kept), findings


def actors(bodies: Bodies, slots: float) -> Result:
    """Put bodies into `slots` slots, best-moving first; one that shares no frame with a slot continues it.

    What is free is read from the frames themselves, not from an interval around them, so a gap can be filled.
    """
    filled: list[Body] = []
    findings: list[Finding] = []
    for body in sorted(bodies, key=lambda b: -b.motion):
        free = next((index for index, taken in enumerate(filled) if not shares(taken, body)), -1)
        if free >= 0:
            findings.append((body.body_id, "actors-continued", body.motion, filled[free].motion))
            # The slot keeps the motion of its best mover, which decided its place.
            filled[free] = merge(filled[free], body)._replace(motion=filled[free].motion)
        elif len(filled) < slots:
            filled.append(body)
        else:
            findings.append((body.body_id, "actors", body.motion, min(taken.motion for taken in filled)))
    return tuple(filled), findings


def centre(bodies: Bodies, joint: float) -> Result:
    """Move all bodies so that `joint` of actor 1 is the origin in the first frame in which actor 1 is tracked."""
    origin_3 = bodies[0].joints_FV3[0, int(joint)]
    return tuple(body._replace(joints_FV3=body.joints_FV3 - origin_3) for body in bodies), []


STAGES: dict[str, Callable[..., Result]] = {
    "join": join,
    "length": length,
    "spread": spread,
    "actors": actors,
    "centre": centre,
}

RECIPES: dict[str, tuple[Stage, ...]] = {
    "exact": (
        # Before `length`, which would otherwise drop the pieces of a body whose ID changed.
        Stage("join", {"gap": 2, "distance": 0.5}),
        Stage("length", {"frames": 11}),
        Stage("spread", {"width": 0.8, "share": 0.69754}),
        Stage("actors", {"slots": 2}),
        Stage("centre", {}, kinect=False),
    ),
}


def recipe(name: str, kinect: bool, centre_joint: int) -> tuple[Stage, ...]:
    """The stages of recipe `name` as they apply to raw Kinect tracks or to bodies that others have already chosen."""
    chosen = (stage for stage in RECIPES[name] if kinect or not stage.kinect)
    return tuple(s._replace(parameters={"joint": centre_joint}) if s.name == "centre" else s for s in chosen)


def describe(name: str, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """The recipe as JSON, every stage with its parameters."""
    return {"name": name, "stages": [{"stage": stage.name, **stage.parameters} for stage in stages]}


def apply(name: str, raw: RawClip, stages: tuple[Stage, ...]) -> Clip:
    """A raw clip with at least one body -> its finished clip, on the raw clip's own frames."""
    bodies: Bodies = tuple(Body(*track, motion(track.joints_FV3)) for track in raw.tracks)
    decisions: list[Decision] = []
    for stage in stages:
        bodies, findings = STAGES[stage.name](bodies, **stage.parameters)
        decisions += [Decision(name, *finding) for finding in findings]
    joints_MTV3 = np.zeros((len(bodies), raw.frames, *bodies[0].joints_FV3.shape[1:]), np.float32)
    present_MT = np.zeros((len(bodies), raw.frames), bool)
    for slot, body in enumerate(bodies):
        joints_MTV3[slot, body.frame_F] = body.joints_FV3
        present_MT[slot, body.frame_F] = True
    return Clip(joints_MTV3, present_MT, tuple(decisions))

"""Stages of recipe exact: a rule per function. No body is dropped without a decision, and no frame moves in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from preprocessing.stages.bodies import (
    Bodies,
    Body,
    Effect,
    Result,
    Scene,
    body_extents,
    found,
    merge,
    motion,
    overlap,
)

LEAST_WIDTH = 0.01  # metres: a heading or a length measured on less is noise


def join(scene: Scene, gap: float, distance: float) -> Result:
    """Join a body to one that vanished at most `gap` frames earlier and at most `distance` metres away.

    The tracker sometimes gives a person a new ID in mid-sequence. Only bodies that share no frame are joined; the
    distance is the mean over the joints that were found in both frames.
    """
    if len(scene.bodies) < 2:
        return scene, []
    joined: list[Body] = []
    effects: list[Effect] = []
    for body in sorted(scene.bodies, key=lambda b: int(b.frame_F[0])):
        best, nearest = -1, distance
        for index, earlier in enumerate(joined):
            before = int(np.searchsorted(earlier.frame_F, body.frame_F[0])) - 1
            if body.frame_F[0] - earlier.frame_F[before] > gap or overlap(earlier, body):
                continue
            jump = _jump(earlier, before, body)
            if jump <= nearest:
                best, nearest = index, jump
        if best < 0:
            joined.append(body)
        else:
            effects.append((body.body_id, "join", nearest, distance))
            joined[best] = merge(joined[best], body)
    return scene._replace(bodies=tuple(joined)), effects


def _jump(earlier: Body, row: int, body: Body) -> float:
    """Distance in metres between a row of one body and the first of another, infinite without a common joint."""
    metres_V = np.linalg.norm(earlier.joints_FV3[row] - body.joints_FV3[0], axis=-1)
    if earlier.tracked_FV is not None or body.tracked_FV is not None:
        metres_V = metres_V[found(earlier)[row] & found(body)[0]]
    return float(metres_V.mean()) if len(metres_V) else float("inf")


def length(scene: Scene, frames: float) -> Result:
    """Of several bodies, drop those tracked in `frames` frames or fewer; if all are, the one that moves most stays."""
    if len(scene.bodies) < 2:
        return scene, []
    short = [len(body.frame_F) <= frames for body in scene.bodies]
    return _drop(scene, short, "length", [float(len(body.frame_F)) for body in scene.bodies], frames)


def spread(scene: Scene, width: float, share: float) -> Result:
    """Of several bodies, drop those wider than `width` times their height in `share` of their frames or more (ghosts).

    The motion of a kept body is recomputed without its wide frames, and lowered if that is less.
    """
    if len(scene.bodies) < 2:
        return scene, []
    noisy: list[float] = []
    kept: list[Body] = []
    for body in scene.bodies:
        extent_F2 = body_extents(body)
        good_F = extent_F2[:, 0] <= width * extent_F2[:, 1]
        noisy.append(float(1 - good_F.mean()))
        marks_FV = None if body.tracked_FV is None else body.tracked_FV[good_F]
        calm = min(body.motion, motion(body.joints_FV3[good_F], marks_FV)) if good_F.any() else body.motion
        kept.append(body._replace(motion=calm))
    return _drop(scene._replace(bodies=tuple(kept)), [value >= share for value in noisy], "spread", noisy, share)


def still(scene: Scene, least: float, most: float) -> Result:
    """Of several bodies, drop those with a motion below `least` or above `most` (m^2), except the one that moves most.

    Optional: it removes furniture and tracking jitter, but quiet partners as well.
    """
    if len(scene.bodies) < 2:
        return scene, []
    best = max(range(len(scene.bodies)), key=lambda i: scene.bodies[i].motion)
    kept: list[Body] = []
    effects: list[Effect] = []
    for index, body in enumerate(scene.bodies):
        if index == best or least <= body.motion <= most:
            kept.append(body)
        else:
            effects.append((body.body_id, "motion", body.motion, least if body.motion < least else most))
    return scene._replace(bodies=tuple(kept)), effects


def _drop(scene: Scene, dropped: list[bool], rule: str, values: list[float], threshold: float) -> Result:
    """Drop the marked bodies. If a rule would drop every body, keep the one that moves most and record the decision."""
    bodies = scene.bodies
    kept = max(range(len(bodies)), key=lambda i: bodies[i].motion) if all(dropped) else -1
    effects = [
        (body.body_id, f"{rule}-kept-best" if index == kept else rule, values[index], threshold)
        for index, body in enumerate(bodies)
        if dropped[index]
    ]
    left = tuple(body for index, body in enumerate(bodies) if not dropped[index] or index == kept)
    return scene._replace(bodies=left), effects


def actors(scene: Scene, slots: float) -> Result:
    """Assign bodies to `slots` slots, largest motion first; a body that shares no frame with a slot continues it.

    Frames are compared one by one, not as an interval from first to last, so a body can fill a gap of another.
    """
    if len(scene.bodies) < 2:
        return scene, []
    filled: list[Body] = []
    effects: list[Effect] = []
    for body in sorted(scene.bodies, key=lambda b: -b.motion):
        free = next((index for index, taken in enumerate(filled) if not overlap(taken, body)), -1)
        if free >= 0:
            effects.append((body.body_id, "actors-continued", body.motion, filled[free].motion))
            # The slot keeps the motion of its best mover, which decided its place.
            filled[free] = merge(filled[free], body)._replace(motion=filled[free].motion)
        elif len(filled) < slots:
            filled.append(body)
        else:
            effects.append((body.body_id, "actors", body.motion, min(taken.motion for taken in filled)))
    return scene._replace(bodies=tuple(filled)), effects


def unit(scene: Scene, metres: float) -> Result:
    """Convert coordinates into metres: one unit of the source measures `metres`."""
    bodies = _each(scene, lambda joints_FV3: joints_FV3 * np.float32(metres)).bodies
    return scene._replace(bodies=tuple(body._replace(motion=body.motion * metres**2) for body in bodies)), []


def centre(scene: Scene, joint: float) -> Result:
    """Translate all bodies so that `joint` of actor 1 is the origin in the first frame in which actor 1 is tracked.

    If the joint is absent there, the first frame in which it was found gives the origin; if it is absent in all, the
    mean of the joints that were found in the first frame with any does.
    """
    first = scene.bodies[0]
    if first.tracked_FV is None:
        origin_C = first.joints_FV3[0, int(joint)]
        return _each(scene, lambda joints_FV3: joints_FV3 - origin_C), []
    found_FV = found(first)
    row, effects = 0, []
    rows_F = np.flatnonzero(found_FV[:, int(joint)])
    if len(rows_F):
        row = int(rows_F[0])
        origin_C = first.joints_FV3[row, int(joint)]
    else:
        row = int(np.argmax(found_FV.any(axis=1)))
        origin_C = first.joints_FV3[row][found_FV[row]].mean(axis=0)
        effects = [(first.body_id, "centre-mean", float(found_FV[row].sum()), 1.0)]
    if row and not effects:
        effects = [(first.body_id, "centre-later", float(row), 0.0)]
    return _each(scene, lambda joints_FV3: joints_FV3 - origin_C), effects


def yaw(scene: Scene, left: float, right: float) -> Result:
    """Rotate all bodies about the vertical through the origin so that actor 1 faces the sensor in its first frame.

    Joint `right` (right shoulder) then has the larger x, and `left` the same depth. The vertical axis is unchanged.
    If a shoulder is absent, the first frame in which both were found decides. Shoulders above each other, or never
    found together, define no heading; then nothing is rotated.
    """
    first = scene.bodies[0]
    rows_F = np.flatnonzero(found(first)[:, [int(left), int(right)]].all(axis=1))
    if not len(rows_F):
        return scene, [(first.body_id, "yaw-undefined", 0.0, LEAST_WIDTH)]
    first_V3 = first.joints_FV3[rows_F[0]].astype(np.float64)
    x, _, z = first_V3[int(right)] - first_V3[int(left)]
    width = float(np.hypot(x, z))
    if width < LEAST_WIDTH:
        return scene, [(first.body_id, "yaw-undefined", width, LEAST_WIDTH)]
    turn_33 = np.array([[x, 0, z], [0, width, 0], [-z, 0, x]]) / width
    effects: list[Effect] = [(first.body_id, "yaw-later", float(rows_F[0]), 0.0)] if rows_F[0] else []
    return _each(scene, lambda joints_FV3: (joints_FV3 @ turn_33.T).astype(np.float32)), effects


def size(scene: Scene, top: float, bottom: float, metres: float) -> Result:
    """Scale the scene so that actor 1's spine, joint `bottom` to joint `top`, measures `metres`.

    The spine is the median over the frames in which both joints were found. One factor applies to all bodies, so
    relative heights and distances between bodies are kept.
    """
    first = scene.bodies[0]
    both_F = found(first)[:, [int(top), int(bottom)]].all(axis=1)
    spines_F = np.linalg.norm(first.joints_FV3[:, int(top)] - first.joints_FV3[:, int(bottom)], axis=-1)[both_F]
    spine = float(np.median(spines_F)) if len(spines_F) else 0.0
    if spine < LEAST_WIDTH:
        return scene, [(first.body_id, "size-undefined", spine, LEAST_WIDTH)]
    factor = np.float32(metres / spine)
    return _each(scene, lambda joints_FV3: joints_FV3 * factor), []


def _each(scene: Scene, change: Callable[[np.ndarray], np.ndarray]) -> Scene:
    """Return the scene with `change` applied to the joints of every body; absent joints stay zero."""
    bodies: Bodies = tuple(_changed(body, change) for body in scene.bodies)
    return scene._replace(bodies=bodies)


def _changed(body: Body, change: Callable[[np.ndarray], np.ndarray]) -> Body:
    joints_FV3 = change(body.joints_FV3)
    if body.tracked_FV is not None:
        joints_FV3 = np.where((body.tracked_FV > 0)[..., None], joints_FV3, np.float32(0))
    return body._replace(joints_FV3=joints_FV3)

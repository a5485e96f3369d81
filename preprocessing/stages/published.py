"""Stages that the published recipes share: CTR-GCN's and pyskl's cleaning, with all their quirks.

They exist to compare with published numbers, so nothing is corrected: time gaps close, hulls hide free frames, a body
with a one-frame overlap is overwritten. Where the original stops with a Python error, StageError names the reason.
"""

from __future__ import annotations

import numpy as np

from preprocessing.stages.bodies import Bodies, Body, Effect, Result, Scene, StageError, extents


def motion32(joints_FV3: np.ndarray) -> float:
    """Sum of the variances of x, y and z over all joints and frames, in float32 as both originals compute it."""
    return float(joints_FV3.reshape(-1, 3).var(axis=0).sum())


def compact(scene: Scene) -> Result:
    """Close time gaps as both originals do: remove frames without a body, then place each body's rows contiguously."""
    seen_T = np.zeros(scene.frames, bool)
    for body in scene.bodies:
        seen_T[body.frame_F] = True
    seen = int(np.count_nonzero(seen_T))
    if len(scene.bodies) == 1 and seen == scene.frames:  # the common case
        return scene, []
    place_T = np.cumsum(seen_T) - 1
    bodies: list[Body] = []
    effects: list[Effect] = []
    for body in scene.bodies:
        true_F = place_T[body.frame_F]
        frame_F = true_F[0] + np.arange(len(true_F))
        if moved := int(np.count_nonzero(frame_F != true_F)):
            effects.append((body.body_id, "compact-mistimed", float(moved), 0.0))
        moves = motion32(body.joints_FV3) if len(scene.bodies) > 1 else body.motion
        bodies.append(body._replace(frame_F=frame_F, motion=moves))
    if gone := scene.frames - seen:
        effects.append((scene.bodies[0].body_id, "compact-empty-frames", float(gone), 0.0))
    return scene._replace(frames=seen, bodies=tuple(bodies)), effects


def length(scene: Scene, frames: float) -> Result:
    """Of several bodies, drop those tracked in `frames` frames or fewer; StageError if none is left."""
    if len(scene.bodies) < 2:
        return scene, []
    kept = tuple(body for body in scene.bodies if len(body.frame_F) > frames)
    if not kept:
        raise StageError("all-short", f"every body has {frames:g} frames or fewer; recipe exact keeps the best one")
    return scene._replace(bodies=kept), [
        (body.body_id, "length", float(len(body.frame_F)), frames)
        for body in scene.bodies
        if len(body.frame_F) <= frames
    ]


def without_wide_frames(body: Body, width: float) -> tuple[float, Body]:
    """Return the share of frames wider than `width` times their height, and the body with its motion without them."""
    extent_F2 = extents(body.joints_FV3).astype(np.float64)
    good_F = extent_F2[:, 0] <= width * extent_F2[:, 1]
    noisy = len(good_F) - int(good_F.sum())
    if not noisy or noisy == len(good_F):
        return noisy / len(good_F), body
    return noisy / len(good_F), body._replace(motion=min(body.motion, motion32(body.joints_FV3[good_F])))


def assign_slots(bodies: Bodies, overlap: int) -> tuple[list[list[Body]], list[Body]]:
    """Assign bodies to two slots, largest motion first, by the hull of the frames that a slot holds.

    The hull of the second slot starts at frame 0 and stays there, as in the originals.

    Args:
        bodies: One or more bodies; the first of equal motion comes first.
        overlap: Number of common frames that still count as no overlap.

    Returns:
        The bodies per slot, and the bodies that fit in none.
    """
    first, *others = sorted(bodies, key=lambda body: -body.motion)
    slots: list[list[Body]] = [[first], []]
    hulls = [(int(first.frame_F[0]), int(first.frame_F[-1]) + 1), (0, overlap)]
    lost: list[Body] = []
    for body in others:
        start, end = int(body.frame_F[0]), int(body.frame_F[-1]) + 1
        for slot, (low, high) in enumerate(hulls):
            if min(high, end) - max(low, start) <= overlap:
                slots[slot].append(body)
                hulls[slot] = (min(low, start), max(high, end))
                break
        else:
            lost.append(body)
    return slots, lost


def overlay(parts: list[Body], like: Body) -> Body:
    """Merge the bodies of one slot; where two share a frame, the later one overwrites. `like` gives the shape."""
    if not parts:
        return Body(0, np.zeros(0, np.int64), np.zeros((0, *like.joints_FV3.shape[1:]), np.float32), 0.0)
    frame_X = np.concatenate([body.frame_F for body in parts])
    joints_XV3 = np.concatenate([body.joints_FV3 for body in parts])
    frame_F, last_F = np.unique(frame_X[::-1], return_index=True)
    return Body(parts[0].body_id, frame_F, joints_XV3[::-1][last_F], parts[0].motion)


def two_slots(scene: Scene, overlap: int) -> Result:
    """Replace the bodies by two slots; the second may be empty. See `assign_slots`."""
    slots, lost = assign_slots(scene.bodies, overlap)
    effects: list[Effect] = [
        (body.body_id, "actors-continued", body.motion, parts[0].motion) for parts in slots for body in parts[1:]
    ]
    effects += [(body.body_id, "actors", body.motion, slots[0][0].motion) for body in lost]
    best = slots[0][0]
    return scene._replace(bodies=tuple(overlay(parts, best) for parts in slots)), effects

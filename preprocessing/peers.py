"""The stages of the two recipes that published numbers rest on, CTR-GCN's and pyskl's, with all their quirks.

They exist to compare with those numbers, so nothing is put right here: time gaps close, hulls hide free frames, a
body with a one-frame overlap is overwritten. Where the original stops with an error of Python, StageError says so.
"""

from __future__ import annotations

import numpy as np

from preprocessing.bodies import Bodies, Body, Finding, Result, Scene, StageError, dense, extents

BLANK = 1e-3  # metres, pyskl: a frame or joint whose absolute coordinates sum to less holds nobody
PARALLEL = 1e-6  # radians and square metres, pyskl: below, two directions are the same
CLOSE = 1e-8  # metres, pyskl: a frame with no coordinate farther from zero holds nobody


def motion32(joints_FV3: np.ndarray) -> float:
    """Sum of the variances of x, y and z over all joints and frames, in float32 as both peers compute it."""
    return float(joints_FV3.reshape(-1, 3).var(axis=0).sum())


def compact(scene: Scene) -> Result:
    """The time base of both: frames with nobody vanish, and a body's rows follow each other without its gaps."""
    seen_T = np.zeros(scene.frames, bool)
    for body in scene.bodies:
        seen_T[body.frame_F] = True
    seen = int(np.count_nonzero(seen_T))
    if len(scene.bodies) == 1 and seen == scene.frames:  # as in most clips
        return scene, []
    place_T = np.cumsum(seen_T) - 1
    bodies: list[Body] = []
    findings: list[Finding] = []
    for body in scene.bodies:
        true_F = place_T[body.frame_F]
        frame_F = true_F[0] + np.arange(len(true_F))
        if moved := int(np.count_nonzero(frame_F != true_F)):
            findings.append((body.body_id, "compact-mistimed", float(moved), 0.0))
        judged = motion32(body.joints_FV3) if len(scene.bodies) > 1 else body.motion
        bodies.append(body._replace(frame_F=frame_F, motion=judged))
    if gone := scene.frames - seen:
        findings.append((scene.bodies[0].body_id, "compact-empty-frames", float(gone), 0.0))
    return scene._replace(frames=seen, bodies=tuple(bodies)), findings


def peer_length(scene: Scene, frames: float) -> Result:
    """Of several bodies, drop those of `frames` frames or fewer; StageError where none is left."""
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


def _calm(body: Body, width: float) -> tuple[float, Body]:
    """The share of frames wider than `width` of their height, and the body judged by its motion in the others."""
    extent_F2 = extents(body.joints_FV3).astype(np.float64)
    good_F = extent_F2[:, 0] <= width * extent_F2[:, 1]
    noisy = len(good_F) - int(good_F.sum())
    if not noisy or noisy == len(good_F):
        return noisy / len(good_F), body
    return noisy / len(good_F), body._replace(motion=min(body.motion, motion32(body.joints_FV3[good_F])))


def ctr_spread(scene: Scene, width: float, share: float) -> Result:
    """Drop wide bodies in order of appearance until one is left, which stays however wide it is."""
    kept: list[Body] = []
    findings: list[Finding] = []
    left = len(scene.bodies)
    for body in scene.bodies:
        if left == 1:
            kept.append(body)
            continue
        noisy, calm = _calm(body, width)
        if noisy >= share:
            left -= 1
            findings.append((body.body_id, "spread", noisy, share))
        else:
            kept.append(calm)
    return scene._replace(bodies=tuple(kept)), findings


def pyskl_spread(scene: Scene, width: float, share: float) -> Result:
    """Of several bodies, drop the wide ones; StageError where all are."""
    if len(scene.bodies) < 2:
        return scene, []
    judged = [_calm(body, width) for body in scene.bodies]
    kept = tuple(calm for noisy, calm in judged if noisy < share)
    if not kept:
        raise StageError("all-wide", "every body is wider than tall; recipe exact keeps the best-moving one")
    return scene._replace(bodies=kept), [(b.body_id, "spread", noisy, share) for noisy, b in judged if noisy >= share]


def _fill(bodies: Bodies, overlap: int) -> tuple[list[list[Body]], list[Body]]:
    """Bodies into two slots by the hull of what a slot holds, best-moving first; (slots, left out).

    `overlap` is how many common frames still count as none. The second slot's hull starts at frame 0 and stays there.
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


def _overlay(parts: list[Body], like: Body) -> Body:
    """Bodies of one slot as one; where two share a frame the later one overwrites."""
    if not parts:
        return Body(0, np.zeros(0, np.int64), np.zeros((0, *like.joints_FV3.shape[1:]), np.float32), 0.0)
    frame_X = np.concatenate([body.frame_F for body in parts])
    joints_XV3 = np.concatenate([body.joints_FV3 for body in parts])
    frame_F, last_F = np.unique(frame_X[::-1], return_index=True)
    return Body(parts[0].body_id, frame_F, joints_XV3[::-1][last_F], parts[0].motion)


def _actors(scene: Scene, overlap: int) -> Result:
    slots, lost = _fill(scene.bodies, overlap)
    findings: list[Finding] = [
        (body.body_id, "actors-continued", body.motion, parts[0].motion) for parts in slots for body in parts[1:]
    ]
    findings += [(body.body_id, "actors", body.motion, slots[0][0].motion) for body in lost]
    best = slots[0][0]
    return scene._replace(bodies=tuple(_overlay(parts, best) for parts in slots)), findings


def ctr_actors(scene: Scene) -> Result:
    """Several bodies into two slots, the second possibly left empty; one common frame counts as none."""
    return _actors(scene, overlap=1) if len(scene.bodies) > 1 else (scene, [])


def ctr_missing(scene: Scene) -> Result:
    """Of a clip recorded with several bodies, remove the frames whose coordinates sum to exactly zero."""
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
    finding: Finding = (scene.bodies[0].body_id, "missing-frames", gone, 0.0)
    return scene._replace(frames=int(keep_T.sum()), bodies=tuple(bodies)), [finding]


def ctr_centre(scene: Scene, joint: float) -> Result:
    """Move all so that `joint` of actor 1 is the origin in its first row that is not zero.

    A body of two is absent where its coordinates sum to zero; a lone one is present in every frame, zero rows too.
    """
    first = scene.bodies[0]
    filled = _first_filled(first.joints_FV3)
    if filled < 0:
        raise StageError("no-actor", "no row of the first actor holds anything; recipe exact may still use the clip")
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
    """The first row that is not zero throughout; -1 where all are."""
    for row, joints_V3 in enumerate(joints_FV3):
        if joints_V3.any():
            return row
    return -1


def pyskl_actors(scene: Scene) -> Result:
    """Several bodies into two slots; a lone one keeps its rows only."""
    if len(scene.bodies) > 1:
        end = max(int(body.frame_F[-1]) + 1 for body in scene.bodies)
        return _actors(scene._replace(frames=end), overlap=0)
    (body,) = scene.bodies
    rows = len(body.frame_F)
    return scene._replace(frames=rows, bodies=(body._replace(frame_F=np.arange(rows)),)), []


def pyskl_trim(scene: Scene) -> Result:
    """Of two slots, trim frames with nobody at both ends; swap the slots where only the second starts the clip."""
    if len(scene.bodies) < 2:
        return scene, []
    joints_MTV3 = dense(scene)
    filled = np.flatnonzero(np.abs(joints_MTV3).sum(axis=(0, 2, 3)) >= BLANK)
    if not len(filled):
        raise StageError("no-actor", "no frame holds anybody")
    start, end = int(filled[0]), int(filled[-1]) + 1
    bodies = []
    for body in scene.bodies:
        inside_F = (body.frame_F >= start) & (body.frame_F < end)
        bodies.append(body._replace(frame_F=body.frame_F[inside_F] - start, joints_FV3=body.joints_FV3[inside_F]))
    first, second = (float(np.abs(joints_TV3[start, 1]).sum()) for joints_TV3 in joints_MTV3)
    findings: list[Finding] = []
    if first < BLANK <= second:
        bodies.reverse()
        findings.append((bodies[0].body_id, "swap", first, BLANK))
    return scene._replace(frames=end - start, bodies=tuple(bodies)), findings


def half(scene: Scene) -> Result:
    """Round coordinates to half precision, 2 to 4 mm at the distances of a room, as pyskl stores them."""
    rounded = (body._replace(joints_FV3=body.joints_FV3.astype(np.float16).astype(np.float32)) for body in scene.bodies)
    return scene._replace(bodies=tuple(rounded)), []


def _turn(from_3: np.ndarray, to_3: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation from one direction to another, by Rodrigues; the identity where they agree."""
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


def pyskl_normalize(scene: Scene, joint: float, align: float) -> Result:
    """What pyskl does on loading: keep the frames of the person seen longer, centre, and with `align` rotate.

    The spine of the first frame goes to +z, then its shoulders to +x; the second turn tilts the spine again.
    """
    joints_MTV3 = dense(scene)
    seen_MT = (np.abs(joints_MTV3) > CLOSE).any(axis=(2, 3))
    bodies = scene.bodies
    findings: list[Finding] = []
    if len(bodies) > 1 and seen_MT[1].sum() > seen_MT[0].sum():
        bodies, joints_MTV3, seen_MT = bodies[::-1], joints_MTV3[::-1], seen_MT[::-1]
        findings.append((bodies[0].body_id, "main-swap", float(seen_MT[0].sum()), float(seen_MT[1].sum())))
    main_T = np.flatnonzero(seen_MT[0])
    if not len(main_T):
        raise StageError("no-actor", "no frame holds anybody")
    if gone := scene.frames - len(main_T):
        findings.append((bodies[0].body_id, "main-frames", float(gone), 0.0))
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
    return scene._replace(frames=len(main_T), bodies=tuple(made)), findings

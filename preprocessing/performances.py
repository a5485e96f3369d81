"""Articulated motion for synthetic recordings: joint angles move a kinematic chain, so bone lengths are constant.

A performance is a subject doing an action. It is a pure function of the seed and its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from preprocessing.ntu import BONES

JOINTS = 25
# Official train subjects of cross-subject (8 is held out as val), then official test subjects.
SUBJECTS = (1, 2, 4, 5, 8, 9, 13, 14, 3, 6, 7, 10)
LEFT_HANDED = (2, 10)
SETUPS = 4

# Difficulty of the clips, tuned so that the network without norm reaches 60 to 85 % on unseen subjects.
SWAY = 0.16  # radians: idle motion of every joint
POSTURE = 0.12  # radians: spread of the subjects' postures
VIGOUR = (0.55, 1.15)  # range of a subject's amplitude, as a share of the action's

_PARENT = np.full(JOINTS, -1)
_PARENT[BONES[:, 1]] = BONES[:, 0]
_ORDER = [int(joint) for joint in BONES[:, 1]]  # parents before children

# Offset of a joint from its parent at rest, metres, of a person of 1.70 m: x to the left, y up, z ahead.
_LEFT = {
    4: (0.17, -0.02, 0), 5: (0.03, -0.28, 0), 6: (0, -0.24, 0), 7: (0, -0.08, 0), 21: (0, -0.08, 0),
    22: (0, -0.04, 0.04),
    12: (0.09, -0.04, 0), 13: (0.01, -0.40, 0), 14: (0, -0.40, 0), 15: (0, -0.06, 0.12),
}  # fmt: skip
_RIGHT_OF = {4: 8, 5: 9, 6: 10, 7: 11, 21: 23, 22: 24, 12: 16, 13: 17, 14: 18, 15: 19}
MIRROR = np.arange(JOINTS)
for _left, _right in _RIGHT_OF.items():
    MIRROR[_left], MIRROR[_right] = _right, _left
_REST_V3 = np.zeros((JOINTS, 3))
_REST_V3[[1, 20, 2, 3]] = (0, 0.30, 0), (0, 0.22, 0), (0, 0.07, 0), (0, 0.16, 0.02)
for _left, _offset in _LEFT.items():
    _REST_V3[_left] = _offset
    _REST_V3[_RIGHT_OF[_left]] = np.array(_offset) * (-1, 1, 1)
_HIP_HEIGHT = 0.90
_RIGHT = frozenset(_RIGHT_OF.values())
ARM = (4, 5, 6, 7, 21, 22)


class Move(NamedTuple):
    """One angle of one joint over an action.

    `flex` brings a hanging limb ahead (negative: a shin backward, a trunk forward), `side` brings it outward, `twist`
    turns it about itself. Of the root, `up` and `ahead` move the whole body, in metres.
    """

    joint: int
    axis: str
    amplitude: float  # radians, or metres
    curve: str
    cycles: float = 1.0


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


CURVES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "hold": lambda u, cycles: _smooth(u / 0.3) * _smooth((1 - u) / 0.3),
    "beat": lambda u, cycles: np.sin(np.pi * cycles * u) ** 2,
    "swing": lambda u, cycles: _smooth(u / 0.3) * _smooth((1 - u) / 0.3) * np.sin(2 * np.pi * cycles * u),
    "go": lambda u, cycles: _smooth((u - 0.15) / 0.6),
    "back": lambda u, cycles: 1 - _smooth((u - 0.15) / 0.6),
}  # fmt: skip
ROOT = 0


def _both(joint: int, *rest: Any) -> tuple[Move, Move]:
    return Move(joint, *rest), Move(int(MIRROR[joint]), *rest)


def _crouch(curve: str) -> tuple[Move, ...]:
    return (
        *_both(12, "flex", 1.4, curve), *_both(13, "flex", -1.5, curve), Move(ROOT, "up", -0.42, curve),
        Move(1, "flex", -0.35, "hold"),
    )  # fmt: skip


_REEL = (Move(1, "flex", 0.4, "beat"), Move(ROOT, "ahead", -0.25, "go"), *_both(4, "flex", 0.5, "beat"))

# Official action number -> moves of each person; those of a left-handed subject are mirrored.
ACTIONS: dict[int, tuple[tuple[Move, ...], ...]] = {
    1: ((Move(8, "flex", 0.9, "hold"), Move(9, "flex", 2.1, "hold"), Move(2, "flex", 0.3, "hold")),),
    6: ((Move(1, "flex", -1.2, "hold"), Move(8, "flex", 1.3, "hold"), *_both(13, "flex", -0.5, "hold"),
         *_both(12, "flex", 0.4, "hold"), Move(ROOT, "up", -0.12, "hold")),),
    7: ((Move(8, "flex", 2.4, "beat"), Move(9, "flex", 1.3, "beat", 2), Move(1, "twist", 0.4, "swing")),),
    8: (_crouch("go"),),
    9: (_crouch("back"),),
    10: ((*_both(4, "flex", 1.1, "hold"), *_both(4, "side", -0.35, "beat", 4), *_both(5, "flex", 0.7, "hold")),),
    22: ((*_both(4, "flex", 2.6, "beat", 2), *_both(5, "flex", 0.6, "beat", 2)),),
    23: ((Move(8, "side", 1.3, "hold"), Move(9, "flex", 1.6, "hold"), Move(9, "side", 0.6, "swing", 3)),),
    24: ((Move(16, "flex", 1.2, "beat"), Move(17, "flex", -0.8, "beat", 2), Move(1, "flex", 0.15, "beat")),),
    26: ((Move(ROOT, "up", 0.16, "beat", 3), Move(13, "flex", -1.3, "hold"), Move(12, "flex", 0.3, "hold")),),
    27: ((Move(ROOT, "up", 0.25, "beat"), *_both(13, "flex", -0.6, "beat", 2), *_both(4, "flex", 0.7, "beat")),),
    35: ((Move(1, "flex", -0.35, "beat"), Move(2, "flex", -0.5, "beat")),),
    50: ((Move(8, "flex", 1.5, "beat"), Move(1, "twist", 0.3, "beat"), Move(ROOT, "ahead", 0.15, "beat")), _REEL),
    51: ((Move(16, "flex", 1.3, "beat"), Move(17, "flex", -0.7, "beat", 2)), _REEL),
    58: ((Move(8, "flex", 0.9, "hold"), Move(9, "flex", 0.5, "beat", 4)),) * 2,
}  # fmt: skip
APART = {50: 1.1, 51: 1.2, 58: 0.95}  # metres between two people


class Person(NamedTuple):
    """Constant traits of a subject."""

    size: float
    limbs: float  # length of arms and legs against the trunk's
    speed: float
    vigour: float
    posture_V3: np.ndarray  # radians
    left_handed: bool


class Performance(NamedTuple):
    """One subject doing one action, by its official numbers."""

    number: int
    setup: int
    subject: int
    replication: int
    action: int


def performance(number: int) -> Performance:
    """Return the `number`-th performance; the first n spread evenly over actions and subjects."""
    actions = tuple(ACTIONS)
    row, column = divmod(number, len(actions))
    turn = (row + column) % len(SUBJECTS)
    return Performance(number, 1 + turn % SETUPS, SUBJECTS[turn], 1 + row // len(SUBJECTS), actions[column])


def person(seed: int, subject: int) -> Person:
    """Draw the traits of a subject."""
    rng = np.random.default_rng([seed, 1, subject])
    return Person(
        size=rng.uniform(0.85, 1.15),
        limbs=rng.uniform(0.93, 1.07),
        speed=rng.uniform(0.75, 1.3),
        vigour=rng.uniform(*VIGOUR),
        posture_V3=rng.normal(0, POSTURE, (JOINTS, 3)),
        left_handed=subject in LEFT_HANDED,
    )


def offsets(who: Person) -> np.ndarray:
    """Offset of each joint from its parent at rest: (V, 3) metres."""
    rest_V3 = _REST_V3 * who.size
    rest_V3[sorted({*ARM, *(int(MIRROR[j]) for j in ARM), *range(12, 20)})] *= who.limbs
    return rest_V3


def angles(moves: tuple[Move, ...], who: Person, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Angles (T, V, 3) in radians (flex, twist, side) and the root's displacement (T, 2) in metres: up, ahead."""
    start, end = rng.uniform(0, 0.2), rng.uniform(0.8, 1)
    u_T = np.clip((np.arange(frames) / (frames - 1) - start) / (end - start), 0, 1)
    time_T = np.arange(frames) / 30
    pace_V3, phase_V3 = rng.uniform(0.2, 0.8, (JOINTS, 3)), rng.uniform(0, 2 * np.pi, (JOINTS, 3))
    turn_TV3 = SWAY * rng.uniform(0, 1, (JOINTS, 3)) * np.sin(2 * np.pi * time_T[:, None, None] * pace_V3 + phase_V3)
    turn_TV3 += who.posture_V3
    way_T2 = np.zeros((frames, 2))
    for move in moves:
        value_T = move.amplitude * who.vigour * rng.uniform(0.85, 1.15) * CURVES[move.curve](u_T, move.cycles)
        if move.axis in ("up", "ahead"):
            way_T2[:, ("up", "ahead").index(move.axis)] += value_T * who.size
        else:
            joint = MIRROR[move.joint] if who.left_handed else move.joint
            turn_TV3[:, joint, ("flex", "twist", "side").index(move.axis)] += value_T
    return turn_TV3, way_T2


def rotation(angle_T: np.ndarray, axis: int) -> np.ndarray:
    """Right-handed rotations about a coordinate axis: (T, 3, 3)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    result = np.zeros((len(angle_T), 3, 3))
    result[:, axis, axis] = 1
    result[:, a, a] = result[:, b, b] = np.cos(angle_T)
    result[:, b, a] = np.sin(angle_T)
    result[:, a, b] = -result[:, b, a]
    return result


def chain(rest_V3: np.ndarray, turn_TV3: np.ndarray) -> np.ndarray:
    """Forward kinematics: joints (T, V, 3) in metres; the root is at the origin and faces along z."""
    frames = len(turn_TV3)
    joints_TV3 = np.zeros((frames, JOINTS, 3))
    world: list[np.ndarray] = [np.eye(3)[None].repeat(frames, 0)] * JOINTS
    for joint in _ORDER:
        parent = int(_PARENT[joint])
        joints_TV3[:, joint] = joints_TV3[:, parent] + world[parent] @ rest_V3[joint]
        outward = -1.0 if joint in _RIGHT else 1.0
        flex, twist, side = turn_TV3[:, joint].T
        local = rotation(outward * side, 2) @ rotation(outward * twist, 1) @ rotation(-flex, 0)
        world[joint] = world[parent] @ local
    return joints_TV3


def act(seed: int, what: Performance) -> list[np.ndarray]:
    """World joints (T, V, 3) of each person of a performance: metres, y up, the scene around the origin."""
    rng = np.random.default_rng([seed, 2, what.number])
    roles = ACTIONS[what.action]
    partner = SUBJECTS[(SUBJECTS.index(what.subject) + 1) % len(SUBJECTS)]
    people = [person(seed, subject) for subject in (what.subject, partner)[: len(roles)]]
    frames = int(np.clip(rng.uniform(50, 70) / people[0].speed, 32, 110))
    facing = rng.normal(0, 0.15) + (0.6 if what.replication % 2 == 0 else 0.0)
    apart = APART.get(what.action, 0.0) * rng.uniform(0.9, 1.1)
    scene = []
    for role, (moves, who) in enumerate(zip(roles, people, strict=True)):
        turn_TV3, way_T2 = angles(moves, who, frames, rng)
        joints_TV3 = chain(offsets(who), turn_TV3)
        # Two people look at each other, side on to the middle camera; one person looks at it.
        yaw = facing + (np.pi / 2 - np.pi * role if len(roles) == 2 else 0.0)
        spin_33 = rotation(np.array([yaw]), 1)[0]
        place_T3 = (way_T2[:, 1:] - apart / 2) * (spin_33 @ np.array([0.0, 0.0, 1.0]))
        place_T3[:, 1] += _HIP_HEIGHT * who.size + way_T2[:, 0]
        scene.append(joints_TV3 @ spin_33.T + place_T3[:, None])
    return scene

"""Write NTU-format recordings of articulated motion with their truth: `python -m preprocessing.synthetic FOLDER`.

A performance is a subject doing an action, recorded by three cameras at once, as in NTU RGB+D. Joint angles move a
kinematic chain, so bone lengths are constant; a sensor adds noise and a tracker its quirks: ghosts, late entries,
changed IDs, empty clips, NaN in unused columns, damaged files. Every clip is a pure function of seed and position.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track

from preprocessing import exits
from preprocessing.files import publish_bytes, publish_json
from preprocessing.ntu import BONES, CLASS_NAMES

DESCRIPTION = """Write synthetic NTU RGB+D recordings (.skeleton files) and their ground truth (truth.json).

examples:
  python -m preprocessing.synthetic demo/raw --clips 720
  python -m preprocessing.synthetic demo/raw --clips 720 --seed 1
  python -m preprocessing.build demo/raw --out demo/clips.h5

exit codes: 0 written, 2 usage, 7 no space
"""

JOINTS = 25
CAMERAS = 3
# Official train subjects of cross-subject (8 is held out as val), then official test subjects.
SUBJECTS = (1, 2, 4, 5, 8, 9, 13, 14, 3, 6, 7, 10)
LEFT_HANDED = (2, 10)
SETUPS = 4
FIRST_ID = 72057594037927936  # the Kinect's 17-digit body IDs, which no double holds exactly

# Difficulty of the clips, tuned so that the network without norm reaches 60 to 85 % on unseen subjects.
NOISE = 0.012  # metres: the sensor, per joint and frame
HIDDEN_NOISE = 0.05  # metres: joints on the far side of a body that stands sideways to the camera
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
_MIRROR = np.arange(JOINTS)
for _left, _right in _RIGHT_OF.items():
    _MIRROR[_left], _MIRROR[_right] = _right, _left
_REST_V3 = np.zeros((JOINTS, 3))
_REST_V3[[1, 20, 2, 3]] = (0, 0.30, 0), (0, 0.22, 0), (0, 0.07, 0), (0, 0.16, 0.02)
for _left, _offset in _LEFT.items():
    _REST_V3[_left] = _offset
    _REST_V3[_RIGHT_OF[_left]] = np.array(_offset) * (-1, 1, 1)
_HIP_HEIGHT = 0.90
_RIGHT = frozenset(_RIGHT_OF.values())
_ARM = (4, 5, 6, 7, 21, 22)


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
    return Move(joint, *rest), Move(int(_MIRROR[joint]), *rest)


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
    rest_V3[sorted({*_ARM, *(int(_MIRROR[j]) for j in _ARM), *range(12, 20)})] *= who.limbs
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
            joint = _MIRROR[move.joint] if who.left_handed else move.joint
            turn_TV3[:, joint, ("flex", "twist", "side").index(move.axis)] += value_T
    return turn_TV3, way_T2


def _rotation(angle_T: np.ndarray, axis: int) -> np.ndarray:
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
        local = _rotation(outward * side, 2) @ _rotation(outward * twist, 1) @ _rotation(-flex, 0)
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
        spin_33 = _rotation(np.array([yaw]), 1)[0]
        place_T3 = (way_T2[:, 1:] - apart / 2) * (spin_33 @ np.array([0.0, 0.0, 1.0]))
        place_T3[:, 1] += _HIP_HEIGHT * who.size + way_T2[:, 0]
        scene.append(joints_TV3 @ spin_33.T + place_T3[:, None])
    return scene


def film(scene: list[np.ndarray], camera: int, setup: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Project the scene into the coordinates of a camera (x, y up, z depth; metres) and add the sensor's noise."""
    yaw = np.radians((-45, 0, 45)[camera - 1]) + rng.normal(0, 0.05)
    height, distance = 0.7 + 0.2 * setup, 2.8 + 0.25 * setup
    place_3 = np.array([rng.normal(0, 0.2), -height, distance + rng.normal(0, 0.15)])
    spin_33 = _rotation(np.array([yaw]), 1)[0]
    # People look along +z, the camera along its own +z at them: half a turn apart.
    flip_3 = np.array([-1.0, 1.0, -1.0])
    seen = []
    for joints_TV3 in scene:
        view_TV3 = joints_TV3 @ spin_33.T * flip_3 + place_3
        across = view_TV3[:, 4] - view_TV3[:, 8]
        sideways_T = np.abs(across[:, 2]) > np.abs(across[:, 0])
        far_TV = np.zeros(view_TV3.shape[:2], bool)
        far_TV[:, _ARM] = (sideways_T & (across[:, 2] > 0))[:, None]
        far_TV[:, _MIRROR[list(_ARM)]] = (sideways_T & (across[:, 2] < 0))[:, None]
        spread_TV1 = np.where(far_TV, HIDDEN_NOISE, NOISE)[..., None]
        seen.append(view_TV3 + spread_TV1 * rng.normal(size=view_TV3.shape))
    return seen


class Tracked(NamedTuple):
    """One body in the tracker's output."""

    body: int
    frame_F: np.ndarray
    joints_FV3: np.ndarray


QUIRKS = ("ghost", "late", "returns", "new-id", "nan-columns", "empty", "truncated", "bad-number")


def quirk(seed: int, what: Performance, camera: int, rng: np.random.Generator) -> str:
    """Return the quirk of a clip, or "". Rare quirks have fixed positions, so that small sets contain them too."""
    place = what.number * CAMERAS + camera - 1
    fixed = {
        7: "truncated", 10: "ghost", 16: "nan-columns", 20: "bad-number", 25: "returns", 31: "empty", 37: "late",
        38: "new-id", 44: "empty",
    }  # fmt: skip
    if place in fixed:
        return fixed[place]
    chance = rng.uniform()
    if len(ACTIONS[what.action]) == 2 and chance < 0.15:
        return "late"
    if chance < 0.04:
        return "ghost"
    return {4: "nan-columns", 5: "returns", 6: "new-id"}.get(int(chance * 100), "")


def tracker(seen: list[np.ndarray], trouble: str, rng: np.random.Generator) -> list[Tracked]:
    """Return the bodies that the tracker reports, with its own IDs."""
    first = FIRST_ID + int(rng.integers(1, 1 << 16))
    frames = np.arange(len(seen[0]))
    bodies = [Tracked(first + slot, frames, joints) for slot, joints in enumerate(seen)]
    cut = int(rng.integers(len(frames) // 4, len(frames) // 2))
    lead = bodies[-1]
    if trouble == "empty":
        return []
    if trouble == "late":
        bodies[-1] = Tracked(lead.body, frames[cut:], lead.joints_FV3[cut:])
    elif trouble == "returns":
        away = (frames < cut) | (frames >= cut + 6)
        bodies[-1] = Tracked(lead.body, frames[away], lead.joints_FV3[away])
    elif trouble == "new-id":
        bodies[-1] = Tracked(lead.body, frames[:cut], lead.joints_FV3[:cut])
        bodies.append(Tracked(first + 9, frames[cut:], lead.joints_FV3[cut:]))
    elif trouble == "ghost":
        # Furniture detected as a person: wider than high, and still.
        shape_V3 = rng.uniform(-1, 1, (JOINTS, 3)) * (0.7, 0.25, 0.2) + lead.joints_FV3[0, 0] + (1.2, -0.3, 0.4)
        still = shape_V3 + rng.normal(0, 0.01, (len(frames), JOINTS, 3))
        bodies.insert(int(rng.integers(0, 2)), Tracked(first + 5, frames, still))
    return bodies


_COLUMNS = "%.7f %.7f %.7f %.4f %.4f %.4f %.4f 0 0 0 0 2"
_COLUMNS_NAN = "%.7f %.7f %.7f NaN NaN NaN NaN 0 0 0 0 2"
_HEAD = "%d 0 1 1 1 1 0 %.6f %.6f 2\r\n25\r\n"


def render(bodies: list[Tracked], frames: int, nan_columns: bool) -> bytes:
    """Format a `.skeleton`: CRLF, 12 columns per joint, depth and colour pixels by the Kinect's pinhole model."""
    rows: list[list[str]] = [[] for _ in range(frames)]
    template = "\r\n".join([_COLUMNS_NAN if nan_columns else _COLUMNS] * JOINTS)
    for body, frame_F, joints_FV3 in bodies:
        slope_FV2 = joints_FV3[..., :2] / joints_FV3[..., 2:] * (1, -1)
        pixels = [] if nan_columns else [slope_FV2 * 365.5 + (256, 212), slope_FV2 * 1057.8 + (960, 540)]
        values_FX = np.concatenate([joints_FV3, *pixels], axis=-1).reshape(len(frame_F), -1)
        lean_F2 = joints_FV3[:, 20, :2] - joints_FV3[:, 0, :2]
        for frame, values, lean in zip(frame_F.tolist(), values_FX.tolist(), lean_F2.tolist(), strict=True):
            rows[frame].append(_HEAD % (body, *lean) + template % tuple(values))
    lines = [str(frames)]
    for bodies_text in rows:
        lines += [str(len(bodies_text)), *bodies_text]
    return ("\r\n".join(lines) + "\r\n").encode()


def damage(content: bytes, trouble: str) -> tuple[bytes, int]:
    """Return damaged content and the line of the damage, from 1; or the content unchanged and 0."""
    if trouble == "truncated":
        # Cut after a complete line, so that the reported line is the missing one.
        content = content[: content.rindex(b"\r\n", 0, 2 * len(content) // 3) + 2]
        return content, content.count(b"\n") + 1
    if trouble == "bad-number":
        lines = content.split(b"\r\n")
        at = next(i for i in range(len(lines) // 2, len(lines)) if lines[i].count(b" ") == 11)
        lines[at] = b"0.1x" + lines[at][4:]
        return b"\r\n".join(lines), at + 1
    return content, 0


def write_performance(folder: Path, seed: int, number: int, cameras: int = CAMERAS) -> list[dict[str, Any]]:
    """Write the clips of one performance; return the ground truth of each."""
    what = performance(number)
    scene = act(seed, what)
    truths = []
    for camera in range(1, cameras + 1):
        rng = np.random.default_rng([seed, 3, number, camera])
        trouble = quirk(seed, what, camera, rng)
        bodies = tracker(film(scene, camera, what.setup, rng), trouble, rng)
        content, line = damage(render(bodies, len(scene[0]), trouble == "nan-columns"), trouble)
        name = f"S{what.setup:03d}C{camera:03d}P{what.subject:03d}R{what.replication:03d}A{what.action:03d}"
        publish_bytes(folder / f"{name}.skeleton", content)
        truths.append(
            {
                "name": name,
                "action": CLASS_NAMES[what.action - 1],
                "frames": len(scene[0]),
                "people": len(scene),
                "quirk": trouble,
                "line": line,
                "bodies": [
                    {"id": b.body, "first": int(b.frame_F[0]), "last": int(b.frame_F[-1]), "frames": len(b.frame_F)}
                    for b in bodies
                ],
            }
        )
    return truths


def write_clips(folder: Path, clips: int, seed: int, workers: int = 2) -> Iterator[list[dict[str, Any]]]:
    """Write the first `clips` clips, three per performance; yield the ground truth of each performance."""
    whole, rest = divmod(clips, CAMERAS)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(partial(write_performance, folder, seed), range(whole), chunksize=4)
    if rest:
        yield write_performance(folder, seed, whole, rest)


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the .skeleton files and truth.json; it must be empty or not exist yet."""
    clips: int = 720
    """Number of clips; 60 or more contain every action and every quirk."""
    seed: int = 0
    """Random seed; the same seed gives the same bytes."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = tyro.cli(Options, prog="python -m preprocessing.synthetic", description=DESCRIPTION, args=arguments)
    try:
        if options.clips < 1 or options.seed < 0:
            raise ValueError(f"--clips {options.clips} must be at least 1, --seed {options.seed} at least 0")
        if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
            raise ValueError(f"{options.folder} is not an empty folder; name another or delete it")
        written = write_clips(options.folder, options.clips, options.seed)
        performances = -(-options.clips // CAMERAS)
        progress = track(written, "synthetic", total=performances, console=Console(stderr=True), transient=True)
        truths = sorted((truth for group in progress for truth in group), key=lambda truth: truth["name"])
        publish_json(options.folder / "truth.json", {"seed": options.seed, "clips": truths})
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)
    print(f"{options.folder}: {len(truths)} clips of {len({t['action'] for t in truths})} actions, and truth.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write synthetic NTU RGB+D recordings (.skeleton files) and their ground truth (truth.json).

Examples:
  python -m preprocessing.synthetic demo/raw --clips 720
  python -m preprocessing.synthetic demo/raw --clips 720 --seed 1
  python -m preprocessing.build demo/raw --out demo/clips.h5

exit codes: 0 written, 2 usage, 7 no space
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.synthetic"))  # before NumPy and h5py load

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from preprocessing import exits
from preprocessing.arguments import suggest
from preprocessing.files import publish_bytes, publish_json
from preprocessing.ntu import CLASS_NAMES, is_train
from preprocessing.performances import ACTIONS, ARM, JOINTS, MIRROR, Performance, act, performance, rotation
from preprocessing.sources.trees import TRUTH

CAMERAS = 3
SPREAD = 400  # clips from which training and test subjects of xsub do every action
FIRST_ID = 72057594037927936  # the Kinect's 17-digit body IDs, which no double holds exactly
NOISE = 0.012  # metres: the sensor, per joint and frame
HIDDEN_NOISE = 0.05  # metres: joints on the far side of a body that stands sideways to the camera


def film(scene: list[np.ndarray], camera: int, setup: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Transform the scene into the coordinates of a camera (x, y up, z depth; metres) and add the sensor's noise."""
    yaw = np.radians((-45, 0, 45)[camera - 1]) + rng.normal(0, 0.05)
    height, distance = 0.7 + 0.2 * setup, 2.8 + 0.25 * setup
    place_3 = np.array([rng.normal(0, 0.2), -height, distance + rng.normal(0, 0.15)])
    spin_33 = rotation(np.array([yaw]), 1)[0]
    # People look along +z, the camera along its own +z at them: half a turn apart.
    flip_3 = np.array([-1.0, 1.0, -1.0])
    seen = []
    for joints_TV3 in scene:
        view_TV3 = joints_TV3 @ spin_33.T * flip_3 + place_3
        across = view_TV3[:, 4] - view_TV3[:, 8]
        sideways_T = np.abs(across[:, 2]) > np.abs(across[:, 0])
        far_TV = np.zeros(view_TV3.shape[:2], bool)
        far_TV[:, ARM] = (sideways_T & (across[:, 2] > 0))[:, None]
        far_TV[:, MIRROR[list(ARM)]] = (sideways_T & (across[:, 2] < 0))[:, None]
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


def spread_note(truths: list[dict[str, Any]]) -> str:
    """Return a warning about actions that the training or the test subjects of xsub lack; empty if none is lacking."""
    performed = {(int(truth["name"][9:12]), truth["action"]) for truth in truths}
    actions = {action for _, action in performed}
    sides = [{action for subject, action in performed if is_trained_on(subject) is side} for side in (True, False)]
    lacking = [(who, len(actions - found)) for who, found in zip(("training", "test"), sides, strict=True)]
    if not any(number for _, number in lacking):
        return ""
    parts = (f"{number} of {len(actions)} actions have no clip of a {who} subject" for who, number in lacking if number)
    which = " and ".join(parts)
    return f"warning: {which} (protocol xsub): they cannot be learned or tested. Use --clips {SPREAD} or more."


def is_trained_on(subject: int) -> bool:
    """Return whether xsub trains on the clips of a subject."""
    return bool(is_train("xsub", np.array([1]), np.array([1]), np.array([subject]))[0])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options("preprocessing.synthetic", arguments)
    try:
        if options.clips < 1 or options.seed < 0:
            raise ValueError(f"--clips {options.clips} must be at least 1, --seed {options.seed} at least 0")
        if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
            raise ValueError(f"{options.folder} is not an empty folder; name another or delete it")
        written = write_clips(options.folder, options.clips, options.seed)
        performances = -(-options.clips // CAMERAS)
        progress = track(written, "synthetic", total=performances, console=Console(stderr=True), transient=True)
        truths = sorted((truth for group in progress for truth in group), key=lambda truth: truth["name"])
        publish_json(options.folder / TRUTH, {"seed": options.seed, "clips": truths})
    except (OSError, ValueError, KeyboardInterrupt) as error:
        return exits.report(error)
    print(f"{options.folder}: {len(truths)} clips of {len({t['action'] for t in truths})} actions, and truth.json")
    if note := spread_note(truths):
        print(note, file=sys.stderr)
    suggest("preprocessing.build", options.folder, "--out", options.folder.with_suffix(".h5"))
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))

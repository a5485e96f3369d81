"""The CTR-GCN chain in plain Python, line by line and rule by rule: the oracle of recipe ctr, and what it is timed by.

Three steps with whole lists between them, as the field does it: read every file into bodies, choose actors, translate
and pad. Nothing of preprocessing is used, so a mistake there cannot hide here. Arrays are float32, metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SHORT = 11  # frames
WIDE = 0.8  # of the height
NOISY = 0.69754  # of the frames
JOINTS = 25


def read_bodies(path: Path) -> dict[str, Any]:
    """One file: frames with anybody, and body ID -> its rows, the interval they are put at, its motion."""
    bodies: dict[str, dict[str, Any]] = {}
    with open(path) as file:
        lines = file.readlines()
    at = 1
    seen = -1
    for _ in range(int(lines[0])):
        count = int(lines[at])
        at += 1
        if count == 0:
            continue
        seen += 1
        for _ in range(count):
            body = lines[at].split()[0]
            at += 1
            joints = int(lines[at])
            at += 1
            rows = np.zeros((joints, 3), np.float32)
            colours = np.zeros((joints, 2), np.float32)
            for joint in range(joints):
                fields = lines[at].split()
                rows[joint] = np.array(fields[:3], dtype=np.float32)
                colours[joint] = np.array(fields[5:7], dtype=np.float32)
                at += 1
            if body not in bodies:
                bodies[body] = {"rows": [rows], "colours": [colours], "interval": [seen]}
            else:
                bodies[body]["rows"].append(rows)
                bodies[body]["colours"].append(colours)
                bodies[body]["interval"].append(bodies[body]["interval"][-1] + 1)
    for body in bodies.values():
        body["rows"] = np.stack(body["rows"])
        if len(bodies) > 1:
            body["motion"] = variance(body["rows"])
    return {"name": path.stem, "frames": seen + 1, "bodies": bodies}


def variance(rows: np.ndarray) -> np.float32:
    """Sum over the axes of the variance over all joints and frames."""
    return np.sum(np.var(rows.reshape(-1, 3), axis=0))


def drop_short(bodies: dict[str, dict[str, Any]]) -> None:
    """Remove bodies that are tracked too briefly."""
    for body in list(bodies):
        if len(bodies[body]["interval"]) <= SHORT:
            del bodies[body]


def drop_wide(bodies: dict[str, dict[str, Any]]) -> None:
    """Remove bodies that are wide in most frames, until one is left; judge the others by their calm frames."""
    for body, data in list(bodies.items()):
        if len(bodies) == 1:
            break
        calm = []
        for frame, joints in enumerate(data["rows"]):
            width = joints[:, 0].max() - joints[:, 0].min()
            height = joints[:, 1].max() - joints[:, 1].min()
            if float(width) <= WIDE * float(height):
                calm.append(frame)
        noisy = len(data["rows"]) - len(calm)
        if noisy == 0:
            continue
        if noisy / len(data["rows"]) >= NOISY:
            del bodies[body]
        else:
            data["motion"] = min(data["motion"], variance(data["rows"][calm]))


def place(rows: np.ndarray, slot: int, data: dict[str, Any], start: int, end: int) -> None:
    """Write a body's rows into its slot."""
    rows[start : end + 1, slot * 75 : slot * 75 + 75] = data["rows"].reshape(-1, 75)


def choose(clip: dict[str, Any]) -> np.ndarray:
    """(T, 75) or (T, 150): the actors of a clip."""
    bodies = dict(clip["bodies"])
    several = len(bodies) > 1
    if several:
        drop_short(bodies)
        if len(bodies) > 1:
            drop_wide(bodies)
    if len(bodies) == 1:
        (data,) = bodies.values()
        rows = np.zeros((clip["frames"], 75), np.float32)
        place(rows, 0, data, data["interval"][0], data["interval"][-1])
    else:
        rows = np.zeros((clip["frames"], 150), np.float32)
        ordered = sorted(bodies.values(), key=lambda data: data["motion"], reverse=True)
        first = ordered[0]
        hulls = [[first["interval"][0], first["interval"][-1]], [0, 0]]
        place(rows, 0, first, *hulls[0])
        for data in ordered[1:]:
            start, end = data["interval"][0], data["interval"][-1]
            for slot in (0, 1):
                if min(hulls[slot][1], end) - max(hulls[slot][0], start) <= 0:
                    place(rows, slot, data, start, end)
                    hulls[slot] = [min(hulls[slot][0], start), max(hulls[slot][1], end)]
                    break
    if several:
        rows = rows[np.where(rows.sum(axis=1) != 0)[0]]
    return rows


def translate(rows: np.ndarray) -> np.ndarray:
    """Put the origin on the first actor's mid-spine in its first row."""
    rows = rows.copy()
    two = rows.shape[1] == 150
    missing = [np.where(rows[:, slot * 75 : slot * 75 + 75].sum(axis=1) == 0)[0] for slot in (0, 1)] if two else []
    first = 0
    while not np.any(rows[first, :75] != 0):
        first += 1
    origin = np.copy(rows[first, 3:6])
    for frame in range(len(rows)):
        rows[frame] -= np.tile(origin, 50 if two else 25)
    for slot, frames in enumerate(missing):
        rows[frames, slot * 75 : slot * 75 + 75] = 0
    return rows


def align(clips: list[np.ndarray]) -> np.ndarray:
    """(N, Tmax, 150): zero-padded, a lone actor's second half zero as for NTU RGB+D 60."""
    longest = max(len(rows) for rows in clips)
    out = np.zeros((len(clips), longest, 150), np.float32)
    for index, rows in enumerate(clips):
        out[index, : len(rows), : rows.shape[1]] = rows
    return out


def chain(paths: list[Path]) -> np.ndarray:
    """The whole chain over files that each hold a body: (N, Tmax, 150)."""
    raw = [read_bodies(path) for path in paths]
    chosen = [choose(clip) for clip in raw]
    return align([translate(rows) for rows in chosen])

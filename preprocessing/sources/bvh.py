"""BVH: motion capture with a hierarchy of joints and their angles; one file per clip.

Positions are computed from offsets and angles; the ends of the limbs are joints too. All files have one hierarchy.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from preprocessing.layouts import Layout
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.entries import ClipSource, Entry, Reading, SourceError
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import array_tracks, check_rate
from preprocessing.sources.trees import Tree, content
from preprocessing.sources.zips import Packed

MOST_JOINTS = 1000
_AXES = {"X": 0, "Y": 1, "Z": 2}


class Hierarchy(NamedTuple):
    """Joints of a file, parents before children."""

    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root
    offsets: tuple[tuple[float, float, float], ...]
    channels: tuple[tuple[str, ...], ...]  # such as Xposition, Zrotation; none at the ends


class Place(NamedTuple):
    """One file."""

    file: str | Packed
    names: tuple[str, ...]
    parents: tuple[int, ...]
    fps: float  # that other files must have; 0: any


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds BVH files."""
    return tree.first_bytes(".bvh").lstrip()[:9].upper() == b"HIERARCHY"


def open_bvh(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of BVH; SourceError if none can be read."""
    items = [item for tree in trees for item in tree.having(".bvh")]
    why = ""
    for item in items:
        try:
            hierarchy, _, seconds = parse_bvh(item.read(), item.stem)
            break
        except SkeletonError as error:
            why = why or str(error)
    else:
        raise SourceError(why or "no BVH files")
    bones = tuple((parent, joint) for joint, parent in enumerate(hierarchy.parents) if parent >= 0)
    layout = Layout("", tuple(map(_words, hierarchy.names)), bones)
    clips = [
        Found(
            Entry(item.stem, item.origin, item.size, item.stamp, read_clip,
                  Place(item.place, hierarchy.names, hierarchy.parents, 0.0 if reading.fps else 1 / seconds)),
            item.path,
        )
        for item in items
    ]  # fmt: skip
    return labelled_source(trees, clips, layout, reading, fps=1 / seconds)


def _words(name: str) -> str:
    """Return a joint's name in words: LeftUpLeg becomes left up leg."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("_", " ")).lower()


def parse_bvh(raw: bytes, name: str) -> tuple[Hierarchy, np.ndarray, float]:
    """Parse a file: hierarchy, motion (T, channels) and seconds per frame; SkeletonError with its line otherwise."""
    lines = raw.decode("utf-8", "replace").splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip().upper() == "MOTION"), -1)
    if start < 0:
        raise SkeletonError(name, len(lines), "truncated", "the file ends before MOTION")
    hierarchy = _hierarchy(lines[:start], name)
    width = sum(map(len, hierarchy.channels))
    try:
        frames = int(lines[start + 1].split(":")[1])
        seconds = float(lines[start + 2].split(":")[1])
    except (IndexError, ValueError):
        raise SkeletonError(name, start + 2, "bad-number", "MOTION needs 'Frames: N' and 'Frame Time: S'") from None
    if frames < 1 or not 0 < seconds < 10:
        raise SkeletonError(name, start + 2, "bad-number", "the number of frames or the frame time is out of range")
    rows = [line for line in lines[start + 3 :] if line.strip()]
    if len(rows) != frames:
        raise SkeletonError(name, len(lines), "truncated", f"{len(rows)} frames; MOTION announces {frames}")
    motion = np.empty((frames, width))
    for number, row in enumerate(rows):
        try:
            values = np.array(row.split(), np.float64)
        except ValueError:
            raise SkeletonError(name, start + 4 + number, "bad-number") from None
        if len(values) != width or not np.isfinite(values).all():
            message = f"{len(values)} finite numbers expected: {width}"
            raise SkeletonError(name, start + 4 + number, "field-count", message)
        motion[number] = values
    return hierarchy, motion, seconds


def _hierarchy(lines: list[str], name: str) -> Hierarchy:
    names: list[str] = []
    parents: list[int] = []
    offsets: list[tuple[float, float, float]] = []
    channels: list[tuple[str, ...]] = []
    path: list[int] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        key = words[0].upper() if words else ""
        try:
            if key in ("ROOT", "JOINT", "END"):
                names.append(f"{names[path[-1]]} end" if key == "END" else " ".join(words[1:]))
                parents.append(path[-1] if path else -1)
                offsets.append((0.0, 0.0, 0.0))
                channels.append(())
            elif key == "{":
                path.append(len(names) - 1)
            elif key == "}":
                path.pop()
            elif key == "OFFSET":
                x, y, z = map(float, words[1:4])
                offsets[path[-1]] = (x, y, z)
            elif key == "CHANNELS":
                kinds = tuple(word.capitalize() for word in words[2:])
                if len(kinds) != int(words[1]) or any(kind[1:] not in ("position", "rotation") for kind in kinds):
                    raise ValueError
                channels[path[-1]] = kinds
        except (IndexError, ValueError):
            raise SkeletonError(name, number, "bad-number", f"{line.strip()[:40]!r} is invalid") from None
    if not names or path or len(names) > MOST_JOINTS or parents.count(-1) != 1:
        raise SkeletonError(name, len(lines), "joint-count", "the hierarchy is not one closed tree of joints")
    return Hierarchy(tuple(names), tuple(parents), tuple(offsets), tuple(channels))


def positions(hierarchy: Hierarchy, motion: np.ndarray) -> np.ndarray:
    """Forward kinematics: joints (T, V, 3) in the file's unit, of angles in degrees, rotated in the listed order."""
    frames = len(motion)
    joints_TV3 = np.zeros((frames, len(hierarchy.names), 3))
    turns: list[np.ndarray] = []
    column = 0
    for joint, (parent, offset, kinds) in enumerate(
        zip(hierarchy.parents, hierarchy.offsets, hierarchy.channels, strict=True)
    ):
        local_T3 = np.repeat(np.array(offset)[None], frames, axis=0)
        turn_T33 = np.repeat(np.eye(3)[None], frames, axis=0)
        moved = False
        for kind in kinds:
            value_T = motion[:, column]
            column += 1
            if kind.endswith("rotation"):
                turn_T33 = turn_T33 @ _rotation(np.radians(value_T), _AXES[kind[0]])
            else:
                # Positions replace the offset, as the root's do.
                local_T3 = local_T3 if moved else np.zeros((frames, 3))
                moved = True
                local_T3[:, _AXES[kind[0]]] = value_T
        if parent < 0:
            joints_TV3[:, joint] = local_T3
            turns.append(turn_T33)
        else:
            joints_TV3[:, joint] = joints_TV3[:, parent] + np.einsum("tij,tj->ti", turns[parent], local_T3)
            turns.append(turns[parent] @ turn_T33)
    return joints_TV3


def _rotation(angle_T: np.ndarray, axis: int) -> np.ndarray:
    """Right-handed rotations about a coordinate axis: (T, 3, 3)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn_T33 = np.zeros((len(angle_T), 3, 3))
    turn_T33[:, axis, axis] = 1
    turn_T33[:, a, a] = turn_T33[:, b, b] = np.cos(angle_T)
    turn_T33[:, b, a] = np.sin(angle_T)
    turn_T33[:, a, b] = -turn_T33[:, b, a]
    return turn_T33


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it is damaged or has another hierarchy than the first."""
    hierarchy, motion, seconds = parse_bvh(content(place.file, name), name)
    check_rate(name, 1 / seconds, place.fps)
    if (hierarchy.names, hierarchy.parents) != (place.names, place.parents):
        raise SkeletonError(name, 0, "joint-count", "its joints differ from those of the first file")
    return array_tracks(positions(hierarchy, motion).astype(np.float32)[:, None], None)

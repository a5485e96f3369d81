"""Clips as the skeleton player (`templates/player.js`) takes them: JSON with joints in millimetres."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from preprocessing.hdf5 import SkeletonFile, clip_present, clip_rows, clip_tracked

ABSENT = -32768  # in all coordinates of a joint that was not found; player.js has it too


IMAGE_METRES = 10.0  # to which the largest image coordinate is scaled, within the range of int16 millimetres


class BodyTrack(TypedDict):
    """A body and the frames in which it was tracked."""

    label: str
    dropped: str
    """That and by which rule it was dropped; empty for a body that was kept. `decisions` explain it."""
    frames: list[int]
    joints: str
    """(F, V, 3) int16 millimetres, base64."""


class Panel(TypedDict):
    """One drawing of a clip: the bodies of the recording, or those of the built file."""

    title: str
    frames: int
    """Frames of this drawing; a shorter one holds its last frame until the clip ends."""
    bodies: list[BodyTrack]


class Mark(TypedDict):
    """A stretch of a clip with a label, drawn below the slider."""

    first: int
    last: int
    label: str
    colour: int
    """Number of its colour; -1: grey."""
    note: str


class ClipMotion(TypedDict):
    """A clip and its drawings, which move together."""

    name: str
    action: str
    frames: int
    decisions: list[str]
    """Decisions of the recipe about it, one line each."""
    note: str
    panels: list[Panel]
    marks: NotRequired[list[Mark]]


class PlayerData(TypedDict):
    """Clips of one file for one player; with several it offers a choice."""

    fps: float
    joints: int
    bones: list[list[int]]
    clips: list[ClipMotion]


def pack(joints_FV3: np.ndarray, tracked_FV: np.ndarray | None = None) -> str:
    """Encode metres as int16 millimetres in base64: shorter than JSON numbers, and finer than the sensor.

    Args:
        joints_FV3: Joints in metres.
        tracked_FV: Marks or scores of the joints; those at 0 become `ABSENT`, which is not drawn. None: all are there.
    """
    found_FV = np.isfinite(joints_FV3).all(axis=-1) & (True if tracked_FV is None else tracked_FV > 0)
    millimetres = np.clip(np.rint(np.nan_to_num(joints_FV3) * 1000), -32767, 32767)
    return base64.b64encode(np.where(found_FV[..., None], millimetres, ABSENT).astype("<i2").tobytes()).decode()


def in_space(joints: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the bodies of one panel in three coordinates: image coordinates get depth 0, y up and a size in metres."""
    if not joints or joints[0].shape[-1] == 3:
        return list(joints)
    largest = max((float(np.nanmax(np.abs(one), initial=0)) for one in joints), default=0) or 1.0
    turn_2 = np.array([1, -1], np.float32) * np.float32(IMAGE_METRES / largest)
    return [np.pad(one * turn_2, ((0, 0), (0, 0), (0, 1))) for one in joints]


def file_panel(file: SkeletonFile, clip: int, title: str) -> Panel:
    """Return the bodies of a clip as the built file has them."""
    rows_MTV3, present_MT, tracked_MTV = clip_rows(file, clip), clip_present(file, clip), clip_tracked(file, clip)
    placed = in_space([rows_TV3[present_T] for rows_TV3, present_T in zip(rows_MTV3, present_MT, strict=True)])
    bodies = [
        BodyTrack(
            label=f"slot {slot}",
            dropped="",
            frames=np.flatnonzero(present_T).tolist(),
            joints=pack(joints_FV3, None if tracked_MTV is None else tracked_MTV[slot][present_T]),
        )
        for slot, (joints_FV3, present_T) in enumerate(zip(placed, present_MT, strict=True))
    ]
    return Panel(title=title, frames=int(file.clips["frames"][clip]), bodies=bodies)


def file_clip(file: SkeletonFile, clip: int, title: str = "as the network gets it") -> ClipMotion:
    """Return a clip of a built file with one drawing."""
    return ClipMotion(
        name=str(file.clips["name"][clip]),
        action=file.class_names[int(file.clips["label"][clip])],
        frames=int(file.clips["frames"][clip]),
        decisions=[],
        note="",
        panels=[file_panel(file, clip, title)],
    )


def player_data(file: SkeletonFile, clips: Sequence[ClipMotion]) -> PlayerData:
    """Return what a player needs to draw clips of a built file."""
    return PlayerData(fps=float(file.fps), joints=len(file.joint_names), bones=file.bones.tolist(), clips=list(clips))

"""Values of the page over timelines: the skeleton moves over coloured segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.pages import render
from pipeline.timeline import NONE, Timeline
from preprocessing.pages import Provenance, Row, Table, number, percent, text
from preprocessing.pages.player import IMAGE_METRES, BodyTrack, ClipMotion, Mark, Panel, PlayerData, pack
from preprocessing.skeleton import RawClip, Track

HIGH, LOW = ("head", "nose", "eye", "neck"), ("ankle", "foot", "heel", "toe")  # words in the names of joints


def page(
    lines: Sequence[Timeline],
    network: str,
    bones: Sequence[tuple[int, int]],
    joint_names: Sequence[str],
    provenance: Provenance,
) -> str:
    """Return the page as text.

    Args:
        lines: Timelines, at least one.
        network: Name of the network.
        bones: (parent, child) of each bone.
        joint_names: Names of the joints V.
        provenance: Shown in the footer.
    """
    fps = lines[0].fps
    data = PlayerData(
        fps=fps,
        joints=len(joint_names),
        bones=[list(bone) for bone in bones],
        clips=[motion(one, joint_names) for one in lines],
    )
    seconds = sum(one.frames / one.fps for one in lines)
    return render(
        "timeline.html",
        provenance,
        kind="timeline",
        title=f"Actions by “{network}”",
        subtitle=f"{len(lines)} recording{'s' if len(lines) > 1 else ''}, {seconds:.1f} s",
        data=data,
        table=table(lines),
    )


def motion(line: Timeline, joint_names: Sequence[str]) -> ClipMotion:
    """Return a recording with its segments for the player."""
    labels = sorted({segment.label for segment in line.segments} - {NONE})
    marks = [
        Mark(
            first=segment.first,
            last=segment.last,
            label=segment.label,
            colour=labels.index(segment.label) if segment.label != NONE else -1,
            note=f"{segment.first / line.fps:.1f} to {(segment.last + 1) / line.fps:.1f} s, "
            f"{100 * segment.probability:.0f} %",
        )
        for segment in line.segments
    ]
    return ClipMotion(
        name=line.name,
        action="",
        frames=line.frames,
        decisions=[],
        note="",
        panels=[panel(line.raw, joint_names)],
        marks=marks,
    )


def points_down(raw: RawClip, joint_names: Sequence[str]) -> bool:
    """Return whether y points down, as in images and in landmarks of MediaPipe: heads are below feet."""
    high, low = (
        [joint for joint, name in enumerate(joint_names) if any(word in name.lower() for word in words)]
        for words in (HIGH, LOW)
    )
    if not high or not low:
        return False
    y_FV = np.concatenate([track.joints_FV3[..., 1] for track in raw.tracks])
    return bool(np.median(y_FV[:, high]) < np.median(y_FV[:, low]))


def panel(raw: RawClip, joint_names: Sequence[str]) -> Panel:
    """Return the recording about the median of its joints, in three coordinates, with y up; pixels scaled to metres."""
    found_RC = np.concatenate([track.joints_FV3[_found(track)] for track in raw.tracks])
    middle_C = np.median(found_RC, axis=0)
    turn_3 = np.array([1, -1, -1] if points_down(raw, joint_names) else [1, 1, 1], np.float32)  # left stays left
    if len(middle_C) < len(turn_3):
        turn_3 *= np.float32(IMAGE_METRES / (np.abs(found_RC - middle_C).max() or 1.0))

    def drawn(joints_FVC: np.ndarray) -> np.ndarray:
        missing = ((0, 0), (0, 0), (0, 3 - joints_FVC.shape[2]))
        return np.pad(joints_FVC - middle_C, missing) * turn_3

    bodies = [
        BodyTrack(
            label=f"body {track.body_id}",
            dropped="",
            frames=track.frame_F.tolist(),
            joints=pack(drawn(track.joints_FV3), track.tracked_FV),
        )
        for track in raw.tracks
    ]
    return Panel(title="the recording", frames=raw.frames, bodies=bodies)


def _found(track: Track) -> np.ndarray:
    """Return which joints have coordinates, (F, V)."""
    return np.ones(track.joints_FV3.shape[:2], bool) if track.tracked_FV is None else track.tracked_FV > 0


def table(lines: Sequence[Timeline]) -> Table:
    """Return every segment of every recording."""
    times = (number("start", "s", ".2f"), number("end", "s", ".2f"))
    columns = (text("recording"), text("action"), *times, percent("probability"))
    rows = [
        Row((row["recording"], row["label"], row["start"], row["end"], row["probability"]))
        for line in lines
        for row in line.rows()
    ]
    return Table("Segments", columns, tuple(rows))

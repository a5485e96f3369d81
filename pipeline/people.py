"""Recordings of several people, cut into one recording per person or per pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from pipeline.options import Per as Per
from pipeline.recordings import CHOOSING, Recording
from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.stages import Scene, Stage, run


def split(recording: Recording, per: Per, trim: bool = False) -> Iterator[Recording]:
    """Yield the recording of each person, or of each pair of people who share a frame.

    Stages before the one that chooses bodies, which join tracks and drop ghosts, see all people; those from there on
    see one person or pair. People are numbered from 1 in the order in which they appear.

    Args:
        recording: The recording; one without people is yielded as it is.
        per: clip: the recording as a whole.
        trim: Cut each part to the frames from the first to the last in which one of its people is there, as in a clip
            of them alone. Without it, times stay those of the recording.
    """
    if recording.raw is None or per == "clip":
        yield recording
        return
    before, after = _halves(recording.stages)
    try:
        scene, _ = run(recording.name, recording.raw, before)
    except SkeletonError as error:
        yield recording._replace(raw=None, finished=None, fault=str(error))
        return
    tracks = _tracks(scene)
    groups: list[tuple[int, ...]] = [(number,) for number in range(len(tracks))]
    if per == "pair":
        groups = [
            (one, other)
            for one, other in combinations(range(len(tracks)), 2)
            if np.isin(tracks[one].frame_F, tracks[other].frame_F).any()
        ]
    if not groups:
        who = "people share a frame" if per == "pair" else "frame has a body"
        yield recording._replace(raw=None, finished=None, fault=f"{recording.name}: no {who}")
    for group in groups:
        word = "person" if per == "person" else "people"
        part = f"[{word} {'+'.join(str(number + 1) for number in group)}]"
        raw = RawClip(scene.frames, tuple(tracks[number] for number in group))
        yield recording._replace(part=part, raw=_trimmed(raw) if trim else raw, stages=after, finished=None)


def _trimmed(raw: RawClip) -> RawClip:
    """Return a clip without the frames before its first and after its last body."""
    first = min(int(track.frame_F[0]) for track in raw.tracks)
    last = max(int(track.frame_F[-1]) for track in raw.tracks)
    return RawClip(last - first + 1, tuple(track._replace(frame_F=track.frame_F - first) for track in raw.tracks))


def _halves(stages: Sequence[Stage]) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """Return the stages before the first that chooses bodies, and those from it on."""
    at = next((place for place, stage in enumerate(stages) if stage.name in CHOOSING), 0)
    return tuple(stages[:at]), tuple(stages[at:])


def _tracks(scene: Scene) -> list[Track]:
    """Return the bodies as tracks, in the order in which they appear."""
    bodies = sorted(scene.bodies, key=lambda body: (int(body.frame_F[0]), body.body_id))
    return [Track(body.body_id, body.frame_F, body.joints_FV3, body.tracked_FV) for body in bodies]

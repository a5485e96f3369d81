"""Bodies as readers find them, made into the tracks of a clip: absent joints, scores, people linked over frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.sources.entries import Reading, SourceError
from preprocessing.stages.recipes import Stage

SLOTS = 2
CHOICES = ("motion", "score")


TIME_UNITS = (1.0, 1e-3, 1e-6, 1e-9)  # seconds
RATE_TOLERANCE = 0.1  # share by which the rates of one source may differ
RATES = (5.0, 500.0)  # frames per second of a recording: no two units of time are both possible


def rate(moments: np.ndarray) -> float:
    """Return the frames per second that the times of frames tell, in s, ms, us or ns; 0 if they tell none."""
    steps = np.diff(np.unique(moments))
    step = float(np.median(steps)) if len(steps) else 0.0
    rates = [1 / (step * unit) for unit in TIME_UNITS] if step else []
    return next((round(one, 2) for one in rates if RATES[0] <= one <= RATES[1]), 0.0)


def check_rate(name: str, fps: float, first: float) -> None:
    """Raise SkeletonError if a file has other frames per second than the first; 0 if one does not say."""
    if fps and first and abs(fps / first - 1) > RATE_TOLERANCE:
        message = f"{fps:g} frames per second; the first file has {first:g}: build them separately, or say --fps"
        raise SkeletonError(name, 0, "frame-rate", message)


class Person(NamedTuple):
    """One body in one frame."""

    joints_VC: np.ndarray
    score_V: np.ndarray | None = None  # 0 where a joint was not found
    identity: int | None = None  # that the source gives; None: link by distance


def selecting(bodies: int, scores: bool, reading: Reading, copies: bool = True) -> tuple[Stage, ...]:
    """Return the stages that leave two bodies per clip: by score if the source has any, else by motion.

    Args:
        bodies: Most bodies of a clip; 3 where the number is not known.
        scores: Whether the source has scores.
        reading: How to read.
        copies: Whether a second body may be a copy of the first: some files hold one in place of an absent actor.
    """
    if reading.bodies not in ("", *CHOICES):
        raise SourceError(f"--bodies {reading.bodies!r} is unknown; choose one of {', '.join(CHOICES)}")
    if reading.bodies == "score" and not scores:
        raise SourceError("--bodies score needs scores, and the source has none; use motion")
    by_score = float(scores if not reading.bodies else reading.bodies == "score")
    copied = (Stage("copied", {}),) if bodies > 1 and copies else ()
    return (*copied, Stage("people", {"slots": SLOTS, "by_score": by_score})) if bodies > SLOTS else copied


def array_tracks(x_TMVC: np.ndarray, scores_TMV: np.ndarray | None, channels: int | None = None) -> RawClip:
    """Make tracks of arrays; a body is absent where all its values are zero, or all its scores.

    Coordinates that are not finite stay as they are: stage `absent` says what they mean.

    Args:
        x_TMVC: Values of each joint.
        scores_TMV: Score of each joint, where it stands in an array of its own.
        channels: Number of coordinates; a value behind them is the score. None: all values are coordinates.
    """
    if channels is not None and x_TMVC.shape[3] > channels:
        x_TMVC, scores_TMV = x_TMVC[..., :channels], x_TMVC[..., channels]
    tracks = []
    for body in range(x_TMVC.shape[1]):
        seen_TV: np.ndarray = np.any(x_TMVC[:, body], axis=2)
        if scores_TMV is not None:
            seen_TV = seen_TV & (scores_TMV[:, body] > 0)
        frame_F = np.flatnonzero(seen_TV.any(axis=1))
        if len(frame_F):
            joints_FVC, score_FV = np.ascontiguousarray(x_TMVC[frame_F, body], np.float32), None
            if scores_TMV is not None:
                score_FV = half_scores(scores_TMV[frame_F, body])
                joints_FVC = np.where((score_FV > 0)[..., None], joints_FVC, np.float32(0))
            tracks.append(Track(body, frame_F, joints_FVC, score_FV))
    return RawClip(len(x_TMVC), tuple(tracks))


def track(body: int, frame_F: np.ndarray, joints_FVC: np.ndarray, score_FV: np.ndarray | None = None) -> Track:
    """Make a track; joints with a coordinate that is not finite, or with score 0, are absent and become zero."""
    found_FV = np.isfinite(joints_FVC).all(axis=2)
    if score_FV is None:
        if found_FV.all():
            return Track(body, frame_F, np.ascontiguousarray(joints_FVC, np.float32))
        marks_FV: np.ndarray = found_FV
    else:
        marks_FV = np.where(found_FV, half_scores(score_FV), 0).astype(np.float16)
    joints_FVC = np.where((marks_FV > 0)[..., None], joints_FVC, 0)
    return Track(body, frame_F, np.ascontiguousarray(joints_FVC, np.float32), marks_FV)


def half_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores between 0 and 1 as float16; a positive score stays positive, NaN becomes 0."""
    tiny = np.finfo(np.float16).tiny
    return np.where(scores > 0, np.clip(scores, tiny, 1), 0).astype(np.float16)


def linked_clip(frames: Sequence[Sequence[Person]], name: str) -> RawClip:
    """Make a clip of the people of each frame.

    A person continues the body that the source says, or the nearest body of an earlier frame: nearer than half the
    size of that body, over the joints that both have. Bodies are numbered in the order in which they appear.
    """
    bodies: list[list[tuple[int, Person]]] = []
    by_identity: dict[int, int] = {}
    for number, people in enumerate(frames):
        taken: set[int] = set()
        free = []
        for person in people:
            if not _found(person).any():
                continue
            if person.identity is None:
                free.append(person)
                continue
            body = by_identity.setdefault(person.identity, len(bodies))
            if body in taken:
                raise SkeletonError(name, 0, "repeated-body", f"body {person.identity} occurs twice in frame {number}")
            _extend(bodies, body, number, person, taken)
        distances = sorted(
            (_distance(bodies[body][-1][1], person), body, index)
            for body in range(len(bodies))
            for index, person in enumerate(free)
        )
        linked: set[int] = set()
        for distance, body, index in distances:
            if distance < 0.5 and body not in taken and index not in linked:
                linked.add(index)
                _extend(bodies, body, number, free[index], taken)
        for index, person in enumerate(free):
            if index not in linked:
                _extend(bodies, len(bodies), number, person, taken)
    return RawClip(len(frames), tuple(_body_track(body, rows) for body, rows in enumerate(bodies)))


def _extend(bodies: list[list[tuple[int, Person]]], body: int, frame: int, person: Person, taken: set[int]) -> None:
    if body == len(bodies):
        bodies.append([])
    bodies[body].append((frame, person))
    taken.add(body)


def _found(person: Person) -> np.ndarray:
    found_V: np.ndarray = np.isfinite(person.joints_VC).all(axis=1)
    return found_V if person.score_V is None else found_V & (person.score_V > 0)


def _distance(one: Person, other: Person) -> float:
    """Mean distance of the joints that both have, as a share of the size of the first; infinite without any."""
    both_V = _found(one) & _found(other)
    if not both_V.any():
        return float("inf")
    size = float(np.linalg.norm(np.ptp(one.joints_VC[_found(one)], axis=0)))
    apart = float(np.linalg.norm(one.joints_VC[both_V] - other.joints_VC[both_V], axis=1).mean())
    return apart / size if size > 0 else (0.0 if apart == 0 else float("inf"))


def _body_track(body: int, rows: list[tuple[int, Person]]) -> Track:
    frame_F = np.array([frame for frame, _ in rows], np.int64)
    joints_FVC = np.stack([person.joints_VC for _, person in rows])
    scores = [person.score_V for _, person in rows]
    score_FV = None if any(score is None for score in scores) else np.stack([s for s in scores if s is not None])
    return track(body, frame_F, joints_FVC, score_FV)

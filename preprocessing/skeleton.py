"""Bytes of one `.skeleton` -> `RawClip`: tracks keyed by body ID with true frame indices, or an error with its line."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

JOINTS = 25
BODY_FIELDS = 10
JOINT_FIELDS = 12
MAX_BODIES = 6  # the Kinect v2 tracks no more
LIMIT_METRES = 1000.0

REASONS = (
    "",
    "empty",  # nothing but white space
    "truncated",  # the file ends before the announced frames do
    "bad-number",  # a token that is not a number of the expected kind
    "joint-count",  # a body without exactly 25 joints
    "body-count",  # more bodies in a frame than the Kinect tracks
    "non-finite",  # NaN or infinity as a coordinate
    "out-of-range",  # a coordinate that no Kinect can measure
    "field-count",  # a line with too few or too many fields
    "trailing",  # text after the last frame
    "repeated-body",  # one body ID twice in one frame
)
_WORDS = {
    "empty": "the file has no content",
    "truncated": "the file ends before the announced frames do",
    "bad-number": "a token is not the number expected there",
    "joint-count": f"a body must have {JOINTS} joints",
    "body-count": f"a frame must have 0 to {MAX_BODIES} bodies",
    "non-finite": "a coordinate is NaN or infinite",
    "out-of-range": f"a coordinate exceeds {LIMIT_METRES:g} m",
    "field-count": f"a body line has {BODY_FIELDS} fields, a joint line {JOINT_FIELDS}",
    "trailing": "text follows the last frame",
    "repeated-body": "a body ID occurs twice in one frame",
}


class SkeletonError(ValueError):
    """A clip cannot be used: its `name`, the `line` (from 1; 0 if no line is at fault) and a `reason` code."""

    def __init__(self, name: str, line: int, reason: str, message: str = "") -> None:
        place = f"{name}:{line}" if line else name
        super().__init__(f"{place}: {reason}: {message or _WORDS[reason]}")
        self.name, self.line, self.reason = name, line, reason


class Track(NamedTuple):
    """One body of a clip, F of the clip's frames."""

    body_id: int
    frame_F: np.ndarray  # int64, ascending, indices of the clip's frames
    joints_FV3: np.ndarray  # float32, metres; (F, V, 2) of a source with two coordinates
    tracked_FV: np.ndarray | None = None
    """Joints that were found: bool, or a score in [0, 1] whose 0 means absent. None: all were found.

    The coordinates of an absent joint are zero and mean nothing.
    """


class RawClip(NamedTuple):
    """A clip as recorded; tracks in order of first appearance."""

    frames: int
    tracks: tuple[Track, ...]


def _read_hard_numbers(content: bytes, joints_BV3: np.ndarray, place_BV3: np.ndarray) -> int:
    """Read the numbers that were left to Python (NaN so far); return the place of one out of range, or -1."""
    for index in zip(*np.nonzero(np.isnan(joints_BV3)), strict=True):
        start = int(place_BV3[index])
        value = float(content[start : start + 1100].split(None, 1)[0])
        if not abs(value) <= LIMIT_METRES:
            return start
        joints_BV3[index] = value
    return -1


def parse(content: bytes, name: str) -> RawClip:
    """Parse one `.skeleton`.

    Args:
        content: The bytes of the file.
        name: Name of the clip, for errors.

    Returns:
        The clip as recorded; it may have no body.

    Raises:
        SkeletonError: The file is damaged; the error has name, line and reason.
    """
    from preprocessing.tokenizer import tokenize  # loads compiled code, which --help and most sources need not

    if not content or content.isspace():
        raise SkeletonError(name, 1, "empty")
    reason, line, frames, body_B, frame_B, joints_BV3, place_BV3, hard = tokenize(content)
    if reason:
        raise SkeletonError(name, line, REASONS[reason])
    if hard and (wrong := _read_hard_numbers(content, joints_BV3, place_BV3)) >= 0:
        raise SkeletonError(name, content.count(b"\n", 0, wrong) + 1, "out-of-range")
    if len(body_B) and (body_B == body_B[0]).all():  # the common case
        return RawClip(frames, (Track(int(body_B[0]), frame_B, joints_BV3),))
    ids, first = np.unique(body_B, return_index=True)
    tracks = []
    for body in ids[np.argsort(first)]:
        mine = body_B == body
        tracks.append(Track(int(body), frame_B[mine], joints_BV3[mine]))
    return RawClip(frames, tuple(tracks))

"""Clips that nobody would record on purpose (F7): each is built, skipped or rejected, and what is built is finite."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError, parse
from preprocessing.stages import Clip, Landmarks, apply, recipe
from preprocessing.work_units import Work, make

Text = Callable[..., bytes]
NAME = "S001C001P001R001A001"
STAGES = recipe("exact", kinect=True, landmarks=Landmarks(centre=1))


def frames_of(person: Any, count: int, body: int = 7) -> list[list[tuple[int, np.ndarray]]]:
    return [[(body, person(0.01 * t))] for t in range(count)]


def with_value(value: float) -> Callable[[Any], Any]:
    """20 frames in which one coordinate of one joint is this."""

    def frames(person: Any) -> Any:
        made = frames_of(person, 20)
        made[5][0][1][3, 1] = value
        return made

    return frames


def with_gap(person: Any) -> Any:
    made = frames_of(person, 30)
    made[10:15] = [[]] * 5
    return made


CLIPS: dict[str, tuple[Callable[[Any], Any], str, int]] = {  # frames, outcome, frames that are kept
    "NaN": (with_value(np.nan), "non-finite", 0),
    "inf": (with_value(np.inf), "non-finite", 0),
    "-inf": (with_value(-np.inf), "non-finite", 0),
    "1e30": (with_value(1e30), "out-of-range", 0),
    "-1e30": (with_value(-1e30), "out-of-range", 0),
    "1,001 m": (with_value(1001.0), "out-of-range", 0),
    "denormal": (with_value(1e-42), "built", 20),
    "all zero": (lambda person: [[(7, np.zeros((25, 3), np.float32))] for _ in range(20)], "built", 20),
    "no body": (lambda person: [[] for _ in range(20)], "no-body", 0),
    "no frame": (lambda person: [], "no-body", 0),
    "7 bodies": (lambda person: [[(b, person(b + 0.01 * t)) for b in range(7)] for t in range(20)], "body-count", 0),
    "6 bodies": (lambda person: [[(b, person(b + 0.01 * t)) for b in range(6)] for t in range(20)], "built", 20),
    "1 frame": (lambda person: frames_of(person, 1), "built", 1),
    "3,000 frames": (lambda person: frames_of(person, 3000), "built", 3000),
    "a gap": (with_gap, "built", 30),
    "a body twice": (lambda person: [[(7, person()), (7, person(1.0))] for _ in range(20)], "repeated-body", 0),
}


def outcome(content: bytes) -> tuple[str, Clip | None]:
    """`built` with the clip, or why it is not."""
    try:
        raw = parse(content, NAME)
        return ("built", apply(NAME, raw, STAGES)) if raw.tracks else ("no-body", None)
    except SkeletonError as error:
        return error.reason, None


@pytest.mark.parametrize("name", CLIPS)
def test_an_odd_clip_has_the_outcome_of_the_table(ntu_text: Text, person: Any, name: str) -> None:
    frames, expected, kept = CLIPS[name]
    found, clip = outcome(ntu_text(frames(person)))
    assert found == expected
    if clip is not None:
        assert clip.joints_MTV3.dtype == np.float32
        assert np.isfinite(clip.joints_MTV3).all()
        assert clip.present_MT.shape == (len(clip.joints_MTV3), kept)


def test_the_same_clip_without_the_oddity_is_built(ntu_text: Text, person: Any) -> None:
    """Control: the value alone decides."""
    assert outcome(ntu_text(with_value(0.5)(person)))[0] == "built"
    assert outcome(ntu_text(with_value(0.5)(person)).replace(b" 0.5 ", b" nan "))[0] == "non-finite"


def test_without_the_list_a_clip_known_to_be_missing_is_built(ntu_text: Text, person: Any) -> None:
    """Control of the list: its clips are readable, so nothing else would skip them."""

    class Entry:
        name, size = "S001C002P005R002A008", 1

        @staticmethod
        def read() -> Any:
            return parse(ntu_text(frames_of(person, 20)), Entry.name)

    listed, unlisted = (make(Work(STAGES, missing), (0, [Entry])) for missing in (frozenset({Entry.name}), frozenset()))
    assert (listed.skipped, listed.shapes) == ([(Entry.name, "known-missing")], [])
    assert (unlisted.skipped, len(unlisted.shapes)) == ([], 1)

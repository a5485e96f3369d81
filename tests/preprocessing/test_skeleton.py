"""The parser keeps numbers, IDs and frame indices exactly; rejections name line and reason."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.skeleton import SkeletonError, parse
from preprocessing.sources import SUFFIX

Text = Callable[..., bytes]
Person = Callable[..., np.ndarray]


def reference(content: bytes) -> tuple[int, dict[int, list[tuple[int, list[list[float]]]]]]:
    """The grammar read by plain Python: frames, and body ID -> [(frame, joints)]."""
    lines = iter(content.decode("utf-8-sig").replace("\r", "").split("\n"))
    tracks: dict[int, list[tuple[int, list[list[float]]]]] = {}
    frames = int(next(lines))
    for frame in range(frames):
        for _ in range(int(next(lines))):
            body, joints = int(next(lines).split()[0]), int(next(lines))
            rows = [[float(value) for value in next(lines).split()[:3]] for _ in range(joints)]
            tracks.setdefault(body, []).append((frame, rows))
    return frames, tracks


def test_line_ends_and_a_byte_order_mark_change_nothing(ntu_text: Text, person: Person) -> None:
    for start, newline in itertools.product([b"", b"\xef\xbb\xbf"], ["\n", "\r\n", "\r\r\n"]):
        clip = parse(start + ntu_text([[(5, person())]], newline), "a")
        assert np.array_equal(clip.tracks[0].joints_FV3[0], person()), (start, newline)


def test_a_track_keeps_its_true_frames(ntu_text: Text, person: Person) -> None:
    clip = parse(ntu_text([[], [(5, person())], [], [(6, person()), (5, person())]]), "a")
    assert clip.frames == 4
    assert [(track.body_id, track.frame_F.tolist()) for track in clip.tracks] == [(5, [1, 3]), (6, [3])]


def test_body_ids_beyond_double_precision_stay_apart(ntu_text: Text, person: Person) -> None:
    one, other = 72057594037935910, 72057594037935911
    assert float(one) == float(other)
    clip = parse(ntu_text([[(one, person()), (other, person(1))]]), "a")
    assert [track.body_id for track in clip.tracks] == [one, other]


@pytest.mark.parametrize("token", ["NaN", "-nan", "inf", "1.#QNAN"])
def test_columns_that_are_not_read_may_hold_anything(ntu_text: Text, person: Person, token: str) -> None:
    assert parse(ntu_text([[(5, person())]], unused=token), "a").frames == 1


@pytest.mark.parametrize(
    ("line", "field", "number"),
    [(8, 2, b"1.5"), (8, 2, b"1e-400"), (4, 0, b"25"), (3, 0, b"5")],
    ids=["exact", "left to Python", "count", "body"],
)
def test_a_control_character_ends_no_number(
    ntu_text: Text, person: Person, line: int, field: int, number: bytes
) -> None:
    """Damaged disks leave NUL; a number that it would end is a named fault, whichever parser reads the number."""
    for control in set(range(32)) - set(b"\t\n\r"):
        lines = ntu_text([[(5, person())]]).split(b"\n")
        parts = lines[line - 1].split(b" ")
        parts[field : field + 2] = [number + bytes([control]) + b"".join(parts[field + 1 : field + 2])]
        lines[line - 1] = b" ".join(parts)
        with pytest.raises(SkeletonError) as caught:
            parse(b"\n".join(lines), "a")
        assert caught.value.line == line, control


@given(st.lists(st.floats(-999, 999), min_size=75, max_size=75))
def test_every_number_is_read_as_python_reads_it(values: list[float]) -> None:
    rows = "".join("{!r} {!r} {!r} 0 0 0 0 0 0 0 0 2\n".format(*values[i : i + 3]) for i in range(0, 75, 3))
    clip = parse(f"1\n1\n5 0 0 0 0 0 0 0 0 2\n25\n{rows}".encode(), "a")
    assert np.array_equal(clip.tracks[0].joints_FV3.ravel(), np.array(values).astype(np.float32))


SPELLINGS = [
        "1e-5",
        "+.5",
        "5.",
        "1E2",
        "0.1234567890123456789012",
        "12345678901234567890e-18",
        "1e-400",
        "-0.0",
        "1.8446744073709551617",  # 2^64 + 1: the digits do not fit 64 bits
        "9007199254740993e-15",
        "9007199254740992e-15",  # beside 2^53, the largest integer that a double holds exactly
        "123e-22",
        "123e-23",
        "0.00000000000000000000001e23",
    ]  # fmt: skip


def test_unusual_spellings_of_numbers(ntu_text: Text, person: Person) -> None:
    for token in SPELLINGS:
        content = ntu_text([[(5, person())]]).replace(b"\n25\n0.0 ", b"\n25\n" + token.encode() + b" ")
        assert parse(content, "a").tracks[0].joints_FV3[0, 0, 0] == np.float32(float(token)), token


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        (b"\n25\n0.0 ", b"\n25\nnan ", 5, "non-finite"),
        (b"\n25\n0.0 ", b"\n25\n-Infinity ", 5, "non-finite"),
        (b"\n25\n0.0 ", b"\n25\n1e9 ", 5, "out-of-range"),
        (b"\n25\n0.0 ", b"\n25\n1e300 ", 5, "out-of-range"),
        (b"\n25\n0.0 ", b"\n25\n0.0.0 ", 5, "bad-number"),
        (b"\n25\n0.0 ", b"\n25\nx ", 5, "bad-number"),
        (b"\n25\n0.0 ", b"\n25\n", 5, "field-count"),
        (b"\n25\n0.0 ", b"\n24\n0.0 ", 4, "joint-count"),
        (b"\n5 0 0", b"\n5 0", 3, "field-count"),
        (b"\n5 0 0", b"\n5.5 0 0", 3, "bad-number"),
        (b"\n5 0 0", b"\n99999999999999999999 0 0", 3, "bad-number"),
        (b"1\n1\n", b"1\n7\n", 2, "body-count"),
        (b"1\n1\n", b"1\n-1\n", 2, "bad-number"),
        (b"1\n1\n", b"2\n1\n", 30, "truncated"),
        (b"1\n1\n", b"999999999999\n1\n", 30, "truncated"),
        (b"1\n1\n", b"0\n1\n", 2, "trailing"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line(
    ntu_text: Text, person: Person, old: bytes, new: bytes, line: int, reason: str
) -> None:
    content = ntu_text([[(5, person())]])
    assert old in content
    with pytest.raises(SkeletonError) as caught:
        parse(content.replace(old, new, 1), "clip")
    assert (caught.value.name, caught.value.line, caught.value.reason) == ("clip", line, reason)


def test_an_empty_file_and_a_repeated_body_are_faults(ntu_text: Text, person: Person) -> None:
    with pytest.raises(SkeletonError, match="empty"):
        parse(b" \r\n", "a")
    with pytest.raises(SkeletonError, match="a:30: repeated-body"):
        parse(ntu_text([[(5, person()), (5, person(1))]]), "a")


def test_a_file_cut_anywhere_is_rejected_or_loses_no_coordinate(ntu_text: Text, person: Person) -> None:
    content = ntu_text([[(5, person())], [(5, person())]])
    for size in range(len(content) - 3):
        with pytest.raises(SkeletonError):
            parse(content[:size], "a")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_clip_or_a_named_fault(content: bytes) -> None:
    with contextlib.suppress(SkeletonError):
        parse(content, "a")


def test_real_files_are_read_as_python_reads_them(real_data: Path) -> None:
    for path in sorted((real_data / "ntu_raw").glob("*" + SUFFIX))[::6]:
        content = path.read_bytes()
        clip, (frames, tracks) = parse(content, path.stem), reference(content)
        assert clip.frames == frames
        assert [track.body_id for track in clip.tracks] == list(tracks)
        for track in clip.tracks:
            expected = tracks[track.body_id]
            assert track.frame_F.tolist() == [frame for frame, _ in expected]
            assert np.array_equal(track.joints_FV3, np.array([rows for _, rows in expected]).astype(np.float32))


def test_a_truncated_real_file_is_named_with_the_line_behind_its_last(real_data: Path) -> None:
    path = real_data / "ntu_raw_damaged" / "S005C002P013R002A056.skeleton"
    with pytest.raises(SkeletonError) as caught:
        parse(path.read_bytes(), path.stem)
    assert caught.value.reason == "truncated"
    assert caught.value.line == path.read_bytes().count(b"\n") + 1

"""The parser under mutation: accepted clips are finite and have the announced structure, rejections name a line.

The nine kinds of mutation that both published parsers let through somewhere, and free edits found by hypothesis.
"""

import contextlib
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessing import skeleton
from preprocessing.skeleton import JOINTS, MAX_BODIES, REASONS, RawClip, SkeletonError, Track, parse

MUTANTS = 200  # of each kind, as many as the published parsers were tried with
Mutation = Callable[[bytes, random.Random], bytes]


def clip(seed: int, frames: int, bodies: int, newline: str = "\r\n") -> bytes:
    """A valid file; bodies come and go, numbers are written as the Kinect tools write them."""
    rng = np.random.default_rng(seed)
    lines = [str(frames)]
    for frame in range(frames):
        here = [body for body in range(bodies) if (frame + body) % 7]
        lines.append(str(len(here)))
        for body in here:
            lines += [f"{72057594037930000 + body} 0 1 1 1 1 0 0.02764709 0.05745083 2", str(JOINTS)]
            joints_V3 = rng.uniform(-1, 4, (JOINTS, 3)).round(7)
            lines += [f"{x} {y} {z} 277.419 191.8218 1036.233 519.1677 -0.2 0 0.9 0.03 2" for x, y, z in joints_V3]
    return (newline.join(lines) + newline).encode()


BASES = [clip(0, 8, 1), clip(1, 6, 2), clip(2, 4, 6, "\n")]


def render(raw: RawClip) -> bytes:
    """A clip as text again; what parse() makes of it must be the same clip."""
    frames: list[list[str]] = [[] for _ in range(raw.frames)]
    for track in raw.tracks:
        for frame, joints_V3 in zip(track.frame_F, track.joints_FV3, strict=True):
            rows = [" ".join([*map(repr, map(float, joint)), *["0"] * 8, "2"]) for joint in joints_V3]
            frames[frame].append("\n".join([f"{track.body_id} 0 0 0 0 0 0 0 0 2", str(JOINTS), *rows]))
    return "\n".join([str(raw.frames), *("\n".join([str(len(b)), *b]) for b in frames), ""]).encode()


def equal(one: RawClip, other: RawClip) -> bool:
    """Return whether two clips have the same frames, and the same bodies in any order."""
    bodies = [{t.body_id: t for t in raw.tracks} for raw in (one, other)]
    return (
        one.frames == other.frames
        and set(bodies[0]) == set(bodies[1])
        and all(np.array_equal(t.frame_F, bodies[1][k].frame_F) for k, t in bodies[0].items())
        and all(np.array_equal(t.joints_FV3, bodies[1][k].joints_FV3) for k, t in bodies[0].items())
    )


def structure(raw: RawClip) -> list[tuple[int, list[int]]]:
    """List the frames of each body."""
    return sorted((track.body_id, track.frame_F.tolist()) for track in raw.tracks)


def named(error: SkeletonError, content: bytes) -> bool:
    """Return whether an error names its line and reason; the line may be the missing one after the last."""
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    start = f"clip:{error.line}: {error.reason}"
    return error.reason in REASONS and 1 <= error.line <= lines + 1 and str(error).startswith(start)


def check(content: bytes) -> RawClip | None:
    """Parse any input: it must give a valid clip that survives being written, or an error that names a line."""
    raw, refusal = None, None
    try:
        raw = parse(content, "clip")
    except SkeletonError as error:
        refusal = error
    if raw is None:
        assert refusal is not None
        assert named(refusal, content), refusal
        return None
    for track in raw.tracks:
        assert track.joints_FV3.dtype == np.float32
        assert track.joints_FV3.shape == (len(track.frame_F), JOINTS, 3)
        assert np.isfinite(track.joints_FV3).all()
        assert np.abs(track.joints_FV3).max() <= skeleton.LIMIT_METRES
        assert np.all(np.diff(track.frame_F) > 0)
        assert 0 <= track.frame_F[0] <= track.frame_F[-1] < raw.frames
    assert equal(parse(render(raw), "clip"), raw)
    return raw


def _line(content: bytes, rng: random.Random, wanted: Callable[[bytes], bool]) -> tuple[list[bytes], int]:
    lines = content.split(b"\n")
    return lines, rng.choice([i for i, line in enumerate(lines) if wanted(line)])


def truncated(content: bytes, rng: random.Random) -> bytes:
    """Cut at any byte before the last field."""
    return content[: rng.randrange(len(content.rstrip()) - 1)]


def dropped(content: bytes, rng: random.Random) -> bytes:
    """One line less."""
    lines, at = _line(content, rng, bool)
    return b"\n".join(lines[:at] + lines[at + 1 :])


def doubled(content: bytes, rng: random.Random) -> bytes:
    """One line twice."""
    lines, at = _line(content, rng, bool)
    return b"\n".join(lines[: at + 1] + lines[at:])


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit changed."""
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def not_finite(content: bytes, rng: random.Random) -> bytes:
    """A coordinate that is not a length."""
    lines, at = _line(content, rng, lambda line: line.count(b" ") == 11)
    fields = lines[at].split(b" ")
    fields[rng.randrange(3)] = rng.choice(
        [b"NaN", b"nan", b"inf", b"-inf", b"-Infinity", b"1e30", b"1.#QNAN", b"1e999"]
    )
    return b"\n".join([*lines[:at], b" ".join(fields), *lines[at + 1 :]])


def _count(content: bytes, at: int, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    now = int(lines[at])
    lines[at] = str(rng.choice([n for n in (0, 1, now - 1, now + 1, now + 5, 10**9) if 0 <= n != now])).encode()
    return b"\n".join(lines)


def frame_count(content: bytes, rng: random.Random) -> bytes:
    """Another number of frames announced."""
    return _count(content, 0, rng)


def joint_count(content: bytes, rng: random.Random) -> bytes:
    """Another number of joints announced."""
    return _count(content, _line(content, rng, lambda line: line.strip() == b"25")[1], rng)


def body_count(content: bytes, rng: random.Random) -> bytes:
    """Another number of bodies announced."""
    lines = content.split(b"\n")
    at = [1]
    while at[-1] + 1 + 27 * int(lines[at[-1]]) < len(lines) - 1:
        at.append(at[-1] + 1 + 27 * int(lines[at[-1]]))
    return _count(content, rng.choice(at), rng)


def trailing(content: bytes, rng: random.Random) -> bytes:
    """Something behind the last frame."""
    return content + rng.choice([b"0\n", b"x", b"25\n", b"1 2 3\n", b"\x00", content])


STRUCTURAL: tuple[Mutation, ...] = (truncated, dropped, doubled, frame_count, joint_count, body_count, trailing)


@pytest.mark.parametrize("mutation", [*STRUCTURAL, not_finite, flipped], ids=lambda mutation: mutation.__name__)
def test_mutants_are_rejected_with_a_line_or_change_nothing_but_a_digit(mutation: Mutation) -> None:
    rng = random.Random(mutation.__name__)
    accepted = 0
    for number in range(MUTANTS):
        base = BASES[number % len(BASES)]
        mutant = mutation(base, rng)
        raw = check(mutant)
        accepted += raw is not None
        if raw is not None:
            before = parse(base, "clip")
            # A bit in a body's ID renames it; in all else who is where must stay.
            assert [frames for _, frames in structure(raw)] == [f for _, f in structure(before)] or mutation is flipped
            assert raw.frames == before.frames
            assert sum(len(t.frame_F) for t in raw.tracks) == sum(len(t.frame_F) for t in before.tracks)
    assert accepted == 0 or mutation is flipped


def trusting(content: bytes, guard: str) -> int:
    """Read with split() and float() but without one guard; return the number of joints."""
    lines = iter(content.decode("latin-1").splitlines())
    got = 0
    for _ in range(int(next(lines))):
        for _ in range(int(next(lines))):
            rows = [next(lines).split()]
            rows += [next(lines).split() for _ in range(int(next(lines)))]
            if guard != "field-count" and [len(row) for row in rows] != [10, *[12] * (len(rows) - 1)]:
                raise ValueError
            points = np.array([[float(value) for value in row[:3]] for row in rows[1:]])
            if guard != "non-finite" and not np.isfinite(points).all():
                raise ValueError
            got += len(points)
    if guard != "trailing" and next(lines, None) is not None:
        raise ValueError
    return got


GUARDS: dict[str, Mutation] = {"field-count": truncated, "trailing": trailing, "non-finite": not_finite}


@pytest.mark.parametrize("guard", GUARDS)
def test_a_parser_without_this_guard_lets_mutants_through(guard: str) -> None:
    rng = random.Random(guard)
    through = 0
    for number in range(MUTANTS):
        mutant = GUARDS[guard](BASES[number % len(BASES)], rng)
        with contextlib.suppress(ValueError, StopIteration):
            through += bool(trusting(mutant, guard))
        assert check(mutant) is None
    assert through > 0


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A valid file after some edits: bytes replaced, removed, put in, or pieces moved."""
    content = bytearray(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.sampled_from([0, 1, 2, 10, 300, 3000]))
        kind = draw(st.sampled_from(["bytes", "token", "move", "remove"]))
        piece = bytes(content[start : start + length])
        if kind == "bytes":
            content[start : start + length] = draw(st.binary(max_size=12))
        elif kind == "token":
            tokens = [b"NaN", b"-", b"1e-400", b"1e400", b".", b"9" * 30, b"\r", b"\n", b"\n\n", b" ", b"\xff", b"0x1"]
            content[start:start] = draw(st.sampled_from([*tokens, b"1_0", b"\xef\xbb\xbf", b"25", b"\x1a", b"1.5"]))
        else:
            del content[start : start + length]
            if kind == "move":
                to = draw(st.integers(0, len(content)))
                content[to:to] = piece
    return bytes(content)


@settings(max_examples=2000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(edited())
def test_any_edit_gives_a_valid_clip_or_a_named_fault(content: bytes) -> None:
    check(content)


@st.composite
def raw_clips(draw: st.DrawFn) -> RawClip:
    """Any clip the format can hold: 1 to 300 frames, up to 6 bodies with gaps, coordinates of any kind."""
    frames = draw(st.sampled_from([1, 2, 11, 12, 40, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 999.0]))
    tracks = []
    for body in rng.choice(2**62, draw(st.integers(0, MAX_BODIES)), replace=False):
        frame_F = np.flatnonzero(rng.random(frames) < draw(st.sampled_from([0.05, 0.5, 1.0])))
        if len(frame_F):
            joints_FV3 = (rng.uniform(-1, 1, (len(frame_F), JOINTS, 3)) * scale).astype(np.float32)
            tracks.append(Track(int(body), frame_F, joints_FV3))
    return RawClip(frames, tuple(tracks))


@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw_clips())
def test_a_clip_written_and_read_is_the_same_to_the_last_bit(raw: RawClip) -> None:
    assert equal(parse(render(raw), "clip"), raw)


@pytest.mark.parametrize("frames", [1, 3000])
def test_the_shortest_and_the_longest_recordings(frames: int) -> None:
    raw = parse(clip(5, frames, 2), "clip")
    assert raw.frames == frames
    assert sum(len(track.frame_F) for track in raw.tracks) == sum(
        bool((t + b) % 7) for t in range(frames) for b in (0, 1)
    )


@pytest.mark.slow
@settings(max_examples=200_000, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(edited())
def test_very_many_edits(content: bytes) -> None:
    check(content)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", [*STRUCTURAL, not_finite, flipped], ids=lambda mutation: mutation.__name__)
def test_very_many_mutants(mutation: Mutation) -> None:
    rng = random.Random(1)
    for number in range(20_000):
        raw = check(mutation(BASES[number % len(BASES)], rng))
        assert raw is None or mutation is flipped

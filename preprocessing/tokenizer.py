"""Tokenizer of `.skeleton` files, compiled by Numba: reads bytes, releases the GIL, skips columns that are not used.

To load Numba takes a third of a second, so `preprocessing.skeleton` imports this module when it parses its first file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from preprocessing.skeleton import BODY_FIELDS, JOINT_FIELDS, JOINTS, LIMIT_METRES, MAX_BODIES, REASONS

(
    _OK, _EMPTY, _TRUNCATED, _BAD_NUMBER, _JOINT_COUNT, _BODY_COUNT,
    _NON_FINITE, _OUT_OF_RANGE, _FIELD_COUNT, _TRAILING, _REPEATED,
) = range(len(REASONS))  # fmt: skip

_POWER = np.array([10.0**k for k in range(23)])  # the powers of ten that a double holds exactly
_LINE_FEEDS, _LOWEST_BITS, _HIGHEST_BITS = (np.uint64(int(byte * 8, 16)) for byte in ("0A", "01", "80"))


@njit(nogil=True, cache=True)
def _blank(data, at):  # type: ignore[no-untyped-def]
    """Return the first place from `at` that is neither space, tab nor carriage return."""
    while at < data.size and (data[at] == 32 or data[at] == 9 or data[at] == 13):
        at += 1
    return at


@njit(nogil=True, cache=True)
def _ends(data, at):  # type: ignore[no-untyped-def]
    """Return whether a token may end at `at`: at white space or the end, not at NUL or other control characters."""
    return at >= data.size or data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9


@njit(nogil=True, cache=True)
def _rest(data, at, end):  # type: ignore[no-untyped-def]
    """Count the fields between `at`, the place after a token, and `end`."""
    # Most bytes of a file pass here. Without branches and negative indices, and with narrow numbers, the compiler
    # vectorizes this loop, which makes it five times as fast.
    fields = np.int32(0)
    here, before = data[at:end], data[at - 1 : end]
    for place in range(here.size):
        fields += np.int32((here[place] > 32) & (before[place] <= 32))
    return fields


@njit(nogil=True, cache=True)
def _integer(data, at):  # type: ignore[no-untyped-def]
    """Read an unsigned integer below 2^63 at `at`: (value, place after it); value -1 if there is none."""
    at = _blank(data, at)
    value = np.int64(0)
    first = at
    while at < data.size and 48 <= data[at] <= 57:
        digit = np.int64(data[at] - 48)
        if value > (np.int64(9223372036854775807) - digit) // 10:
            return np.int64(-1), at
        value = value * 10 + digit
        at += 1
    if at == first or not _ends(data, at):
        return np.int64(-1), at
    return value, at


@njit(nogil=True, cache=True)
def _float(data, at, power):  # type: ignore[no-untyped-def]  # noqa: C901
    """Read a decimal at `at`: (value, place after it, kind).

    Kind 0: not a number, 1: exact, 2: left to Python, 3: NaN or infinity. Exact as in Clinger's fast path: an integer
    below 2^53, multiplied with or divided by a power of ten that a double represents, is rounded once.
    """
    size = data.size
    negative = data[at] == 45
    if at < size and (data[at] == 45 or data[at] == 43):
        at += 1
    mantissa = np.uint64(0)
    first = at
    while at < size and 48 <= data[at] <= 57:
        mantissa = mantissa * np.uint64(10) + np.uint64(data[at] - 48)
        at += 1
    seen = at - first
    exponent = 0
    if at < size and data[at] == 46:
        at += 1
        first = at
        while at < size and 48 <= data[at] <= 57:
            mantissa = mantissa * np.uint64(10) + np.uint64(data[at] - 48)
            at += 1
        exponent = first - at
        seen -= exponent
    if seen == 0:
        letter = data[at] | 32 if at < size else 0
        return 0.0, at, 3 if letter == 110 or letter == 105 else 0
    if at < size and (data[at] == 101 or data[at] == 69):
        at += 1
        sign = 1
        if at < size and (data[at] == 45 or data[at] == 43):
            sign = -1 if data[at] == 45 else 1
            at += 1
        first = at
        power_of_ten = 0
        while at < size and 48 <= data[at] <= 57:
            power_of_ten = min(power_of_ten * 10 + (data[at] - 48), 100000)
            at += 1
        if at == first:
            return 0.0, at, 0
        exponent += sign * power_of_ten
    if not _ends(data, at):
        return 0.0, at, 0
    if seen > 19 or mantissa > np.uint64(9007199254740992) or exponent > 22 or exponent < -22:
        return 0.0, at, 2
    value = np.float64(mantissa)
    value = value * power[exponent] if exponent >= 0 else value / power[-exponent]
    return (-value if negative else value), at, 1


@njit(nogil=True, cache=True)
def _joint(data, at, end, power, row_3, place_3):  # type: ignore[no-untyped-def]
    """Read one joint line into `row_3`: (start of the next line, reason, whether a number was left to Python)."""
    hard = False
    for axis in range(3):
        at = _blank(data, at)
        if at >= data.size:
            return at, _TRUNCATED, hard
        if data[at] == 10:
            return at, _FIELD_COUNT, hard
        start = at
        value, at, kind = _float(data, at, power)
        if kind == 0:
            return at, _TRUNCATED if at >= data.size else _BAD_NUMBER, hard
        if kind == 3:
            return at, _NON_FINITE, hard
        if abs(value) > LIMIT_METRES:
            return at, _OUT_OF_RANGE, hard
        row_3[axis] = value
        if kind == 2:
            row_3[axis] = np.nan
            place_3[axis] = start
            hard = True
    fields = _rest(data, at, end)
    if fields == JOINT_FIELDS - 3:
        return end + 1, _OK, hard
    return at, _TRUNCATED if end >= data.size and fields < JOINT_FIELDS - 3 else _FIELD_COUNT, hard


@njit(nogil=True, cache=True)
def _body(data, at, line, end_L, power, joints_V3, place_V3):  # type: ignore[no-untyped-def]
    """Read one body into `joints_V3`: (place, line, reason, body ID, whether a number was left to Python)."""
    hard = False
    if _blank(data, at) >= data.size:
        return at, line, _TRUNCATED, np.int64(0), hard
    body, at = _integer(data, at)
    if body < 0:
        return at, line, _BAD_NUMBER, body, hard
    end = end_L[line - 1]
    if _rest(data, at, end) != BODY_FIELDS - 1:
        return at, line, _TRUNCATED if end >= data.size else _FIELD_COUNT, body, hard
    at = end + 1
    line += 1
    if _blank(data, at) >= data.size:
        return at, line, _TRUNCATED, body, hard
    count, at = _integer(data, at)
    if count != JOINTS:
        return at, line, _BAD_NUMBER if count < 0 else _JOINT_COUNT, body, hard
    end = end_L[line - 1]
    if _rest(data, at, end):
        return at, line, _FIELD_COUNT, body, hard
    at = end + 1
    for joint in range(JOINTS):
        line += 1
        if line > len(end_L):
            return at, line, _TRUNCATED, body, hard
        at, reason, left = _joint(data, at, end_L[line - 1], power, joints_V3[joint], place_V3[joint])
        hard = hard or left
        if reason:
            return at, line, reason, body, hard
    return at, line + 1, _OK, body, hard


@njit(nogil=True, cache=True)
def _count_line(data, at, line, end_L):  # type: ignore[no-untyped-def]
    """Read a line with one count: (start of the next line, reason, count)."""
    if _blank(data, at) >= data.size:
        return at, _TRUNCATED, np.int64(0)
    count, at = _integer(data, at)
    if count < 0:
        return at, _BAD_NUMBER, count
    end = end_L[line - 1]
    return end + 1, _FIELD_COUNT if _rest(data, at, end) else _OK, count


@njit(nogil=True, cache=True)
def _line_ends(data, word_W, end_L):  # type: ignore[no-untyped-def]
    """Write the place of each line feed, and the size of the file last; return their number.

    Eight bytes are looked at together, and one by one only where one of them is a line feed.
    """
    line = 0
    for word in range(len(word_W)):
        differs = word_W[word] ^ _LINE_FEEDS
        if (differs - _LOWEST_BITS) & ~differs & _HIGHEST_BITS:  # a byte is zero: Warren, Hacker's Delight, 6-1
            for at in range(8 * word, 8 * word + 8):
                if data[at] == 10:
                    end_L[line] = at
                    line += 1
    for at in range(8 * len(word_W), data.size):
        if data[at] == 10:
            end_L[line] = at
            line += 1
    end_L[line] = data.size
    return line + 1


@njit(nogil=True, cache=True)
def _scan(data, end_L, power, body_B, frame_B, joints_BV3, place_BV3):  # type: ignore[no-untyped-def]  # noqa: C901
    """Read the whole file into the B-arrays: (reason, line, frames, bodies, whether a number was left to Python)."""
    hard = False
    at, line, bodies = 0, 1, 0
    if data.size >= 3 and data[0] == 0xEF and data[1] == 0xBB and data[2] == 0xBF:
        at = 3
    at, reason, frames = _count_line(data, at, line, end_L)
    if reason:
        return _EMPTY if reason == _TRUNCATED else reason, line, frames, bodies, hard
    line += 1
    for frame in range(frames):
        at, reason, count = _count_line(data, at, line, end_L)
        if reason == _OK and count > MAX_BODIES:
            reason = _BODY_COUNT
        if reason:
            return reason, line, frames, bodies, hard
        line += 1
        first = bodies
        for _ in range(count):
            if bodies == len(body_B):  # more bodies than the file has lines for
                return _TRUNCATED, line, frames, bodies, hard
            start = line
            at, line, reason, body, left = _body(data, at, line, end_L, power, joints_BV3[bodies], place_BV3[bodies])
            hard = hard or left
            if reason:
                return reason, line, frames, bodies, hard
            for other in range(first, bodies):
                if body_B[other] == body:
                    return _REPEATED, start, frames, bodies, hard
            body_B[bodies] = body
            frame_B[bodies] = frame
            bodies += 1
    while at < data.size:
        if _blank(data, at) == at and data[at] != 10:
            return _TRAILING, line, frames, bodies, hard
        line += data[at] == 10
        at += 1
    return _OK, line, frames, bodies, hard


class Tokens(NamedTuple):
    """The numbers of a file: B bodies in the order of their lines."""

    reason: int  # index into REASONS
    line: int
    frames: int
    body_B: np.ndarray  # int64
    frame_B: np.ndarray  # int64
    joints_BV3: np.ndarray  # float32, NaN where the number is left to Python
    place_BV3: np.ndarray  # int64, of the numbers that are left to Python
    hard: bool  # whether numbers are left to Python


def tokenize(content: bytes) -> Tokens:
    """Read the numbers of one `.skeleton`, up to its first fault."""
    data = np.frombuffer(content, np.uint8)
    end_L = np.empty(data.size + 1, np.int64)  # untouched memory costs nothing
    end_L = end_L[: _line_ends(data, data[: data.size // 8 * 8].view(np.uint64), end_L)]
    room = len(end_L) // (JOINTS + 2) + 1  # a body takes 2 + 25 lines
    body_B = np.empty(room, np.int64)
    frame_B = np.empty(room, np.int64)
    joints_BV3 = np.empty((room, JOINTS, 3), np.float32)
    place_BV3 = np.empty((room, JOINTS, 3), np.int64)
    reason, line, frames, bodies, hard = _scan(data, end_L, _POWER, body_B, frame_B, joints_BV3, place_BV3)
    return Tokens(
        reason, int(line), int(frames), body_B[:bodies], frame_B[:bodies], joints_BV3[:bodies], place_BV3[:bodies], hard
    )

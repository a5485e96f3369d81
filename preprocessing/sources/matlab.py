"""Numeric arrays of MATLAB files of version 5 (-v6, -v7). SciPy's reader crashes on damaged files; this one raises."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np

from preprocessing.sources.zips import MAX_BYTES

HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = range(6, 16)  # classes of arrays: double, single, integers
_COMPLEX = 0x0800


def read_matlab(raw: bytes) -> dict[str, np.ndarray]:
    """Return the numeric arrays of a file by name; other variables are left out.

    Raises:
        ValueError: The file is damaged; the message has one line.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    if order is None:
        raise ValueError("it is not a MATLAB file of version 5")
    arrays: dict[str, np.ndarray] = {}
    for kind, content in _elements(raw[HEADER:], order):
        if kind == _COMPRESSED:
            expander = zlib.decompressobj()
            try:
                content = expander.decompress(content, MAX_BYTES)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            if not expander.eof:
                raise ValueError(f"a variable is cut off, or larger than {MAX_BYTES >> 20} MiB")
            kind, content = next(_elements(content, order), (0, b""))
        if kind == _MATRIX:
            arrays |= _matrix(content, order)
    return arrays


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, bytes) of the data elements, each padded to 8 bytes; small ones share their tag's 8 bytes."""
    at = 0
    while at + 8 <= len(content):
        kind, count = (int(number) for number in np.frombuffer(content, f"{order}u4", 2, at))
        if kind >> 16:
            kind, count, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if count > 4:
                raise ValueError("a small element has more than 4 bytes")
        else:
            start = at + 8
            # Compressed elements have no padding.
            end = start + (count if kind == _COMPRESSED else (count + 7) // 8 * 8)
        if start + count > len(content):
            raise ValueError("the file ends inside a variable")
        yield kind, content[start : start + count]
        at = end


def _matrix(content: bytes, order: str) -> dict[str, np.ndarray]:
    """Return the array of one variable by its name; nothing for text, cells, structures and objects."""
    parts = list(_elements(content, order))
    if len(parts) < 3 or len(parts[0][1]) < 4:
        raise ValueError("a variable has no flags, dimensions or name")
    flags = int(np.frombuffer(parts[0][1], f"{order}u4", 1)[0])
    if flags & 0xFF not in _NUMERIC or flags & _COMPLEX:
        return {}
    if len(parts) < 4 or parts[3][0] not in _TYPES or len(parts[1][1]) % 4:
        raise ValueError("a variable has no values")
    shape = tuple(int(size) for size in np.frombuffer(parts[1][1], f"{order}i4"))
    dtype = np.dtype(order + _TYPES[parts[3][0]])
    if min(shape, default=-1) < 0 or len(shape) > 32 or math.prod(shape) * dtype.itemsize != len(parts[3][1]):
        raise ValueError(f"a variable of shape {shape} does not have the bytes that it needs")
    name = parts[2][1].decode("latin1")
    return {name: np.frombuffer(parts[3][1], dtype).reshape(shape, order="F")}

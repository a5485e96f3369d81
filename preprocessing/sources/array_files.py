"""Arrays of `.npz` and `.npy` files, read row by row, so that a file may be larger than the memory; never pickles."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.lib import format as npy

from preprocessing.files import require_space
from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import SourceError

SMALL = 1 << 20  # bytes up to which an array is read at once
BLOCK = 4 << 20
OPEN_FILES = "/proc/self/fd"  # of this process and its forks
_LOCAL = 30  # bytes of a zip member's local header before its name
_BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, zlib.error, SyntaxError)


class Rows(NamedTuple):
    """An array in a file, of which rows are read by position. It is picklable and holds no open file."""

    path: str
    offset: int  # of the first value
    type: str
    shape: tuple[int, ...]
    fortran: bool = False

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.type)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read(self, start: int, stop: int, name: str = "") -> np.ndarray:
        """Return rows from `start` to before `stop`; SkeletonError, with the clip's name, if they cannot be read."""
        if self.fortran:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order="F")
            return np.ascontiguousarray(mapped[start:stop])
        size = (stop - start) * self.row_bytes
        try:
            with open(self.path, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), size, self.offset + start * self.row_bytes)
                while len(content) < size and (
                    more := os.pread(
                        file.fileno(), size - len(content), self.offset + start * self.row_bytes + len(content)
                    )
                ):
                    content += more
        except OSError as error:
            raise SkeletonError(name, 0, "unreadable", f"{self.path}: {error.strerror or error}") from None
        if len(content) != size:
            raise SkeletonError(name, 0, "unreadable", f"{self.path} ends before its last row")
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])


Arrays = dict[str, "np.ndarray | Rows"]


def read_arrays(path: Path, keys: Collection[str]) -> Arrays:
    """Return the arrays of an npz that are among `keys`: small ones in memory, others as `Rows`.

    An array that was saved compressed is unpacked into a temporary file (in the folder that TMPDIR names), which
    disappears with this process.

    Raises:
        SourceError: The file is damaged, or an array holds Python objects.
        OSError: There is no space to unpack a compressed array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in keys]
            return {info.filename[:-4]: _member(path, archive, info) for info in infos}
    except SourceError:
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{path} is not a readable array file ({reason}). Save it again with numpy.savez, or copy it again."
        ) from None


def read_npy(path: Path) -> Rows:
    """Return the array of a `.npy` file; SourceError if it is damaged or holds Python objects."""
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = _header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")
        rows = Rows(str(path.resolve()), offset, dtype.str, shape, fortran)
        if path.stat().st_size < offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise ValueError("the file ends before its last value")
        return rows
    except _BROKEN as error:
        raise SourceError(
            f"{path} is not a readable .npy file ({str(error).splitlines()[0]}). Copy it again."
        ) from None


def memory(array: np.ndarray | Rows) -> np.ndarray:
    """Return an array in memory."""
    return array.read(0, array.shape[0]) if isinstance(array, Rows) else array


def is_unpacked(place: Any) -> bool:
    """Return whether the place of a clip names rows of a compressed array, which only this machine can read."""
    return isinstance(place, tuple) and any(isinstance(one, Rows) and one.path.startswith(OPEN_FILES) for one in place)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format is not supported")
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray | Rows:
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member)
        start = member.tell()
        if dtype.hasobject:
            raise SourceError(
                f"{path}: {info.filename[:-4]} holds Python objects, which are never loaded. Save it as text"
                " (.astype(str)) or numbers; clips of different lengths as one array (np.concatenate) and ptr."
            )
        if info.file_size - start != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise ValueError(f"{info.filename} does not have the size that its header states")
        if info.file_size <= SMALL:
            content = io.BytesIO(archive.read(info))
            return np.asarray(npy.read_array(content, allow_pickle=False))
    if info.compress_type == zipfile.ZIP_STORED:
        offset = _check_stored(path, info) + start
        return Rows(str(path.resolve()), offset, dtype.str, shape, fortran)
    return Rows(_unpack(archive, info), start, dtype.str, shape, fortran)


def _check_stored(path: Path, info: zipfile.ZipInfo) -> int:
    """Compare a stored member with its CRC-32; return the offset of its first byte."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL)
        offset = info.header_offset + _LOCAL + sum(int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
        file.seek(offset)
        crc, left = 0, info.file_size
        while left and (block := file.read(min(BLOCK, left))):
            crc, left = isal_zlib.crc32(block, crc), left - len(block)
    if left or crc != info.CRC:
        raise ValueError(f"{info.filename} does not match its CRC-32")
    return offset


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """Expand a member into a temporary file without a name; return a path that this process and its forks can open."""
    folder = Path(tempfile.gettempdir())
    require_space(folder, info.file_size)
    target = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as this process
    with archive.open(info) as member:
        while block := member.read(BLOCK):
            target.write(block)
    target.flush()
    _UNPACKED.append(target)
    return f"{OPEN_FILES}/{target.fileno()}"


_UNPACKED: list[Any] = []
"""Keeps unpacked arrays open until the process ends."""

"""Members of a zip, read in place by any thread or process; limits protect against archives that expand too much."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from isal import isal_zlib
from isal.igzip_lib import IsalError

from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import SourceError

MAX_BYTES = 64 << 20  # of one recording
MAX_TOTAL = 40 << 30  # of all recordings of one zip; the official ones stay under 25 GB
MAX_RATIO = 200
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_LOCAL = struct.Struct("<4s22xHH")  # of a member's local header: signature, lengths of name and extra field


def check_size(name: str, size: int) -> None:
    """Raise SkeletonError for a recording larger than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise SkeletonError(name, 0, "too-large", f"more than {MAX_BYTES >> 20} MiB")


def members(path: Path) -> Iterator[tuple[str, Packed]]:
    """Yield (name inside the zip, member) of every file that is not hidden: archivers add hidden files beside others.

    Raises:
        SourceError: The zip is unreadable, or its files are larger than `MAX_TOTAL` in total.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not any(map(hidden, info.filename.split("/")))
            ]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise SourceError(
            f"{path} is a damaged or truncated zip ({error}). Download or copy it again, and compare its size."
        ) from None
    if (total := sum(info.file_size for info in found)) > MAX_TOTAL:
        raise SourceError(f"{path} claims to hold {total / 1e9:.0f} GB; at most {MAX_TOTAL / 1e9:.0f} GB are read")
    where = os.path.abspath(path)
    for info in found:
        stem = info.filename.rpartition("/")[2].rpartition(".")[0] or info.filename
        yield info.filename, Packed(where, stem, info.header_offset, info.compress_size, info.file_size, info.CRC,
                                    info.compress_type, bool(info.flag_bits & 1))  # fmt: skip


def hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or one in which macOS keeps attributes of others."""
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


class Packed(NamedTuple):
    """A member of a zip; readers share nothing but the file."""

    path: str
    name: str
    offset: int  # of its local header
    packed: int  # bytes
    size: int  # bytes
    crc: int
    method: int
    encrypted: bool

    def read(self) -> bytes:
        """Return its bytes, checked against size and CRC-32; SkeletonError if damaged, encrypted or too large."""
        check_size(self.name, max(self.size, self.packed))
        if self.size > MAX_RATIO * max(self.packed, 1):
            raise SkeletonError(self.name, 0, "too-compressed", f"expands more than {MAX_RATIO} times")
        if self.encrypted or self.method not in (STORED, DEFLATED):
            why = "encrypted" if self.encrypted else f"compressed by method {self.method}; use deflate"
            raise SkeletonError(self.name, 0, "unreadable", f"the zip member is {why}")
        try:
            content = self._expand()
        except (OSError, IsalError, struct.error) as error:  # type: ignore[misc]  # its stub is not of a class
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise SkeletonError(self.name, 0, "unreadable", f"{self.path}: {reason}") from None
        if len(content) != self.size or isal_zlib.crc32(content) != self.crc:
            raise SkeletonError(self.name, 0, "unreadable", "the zip member does not match its size and CRC-32")
        return content

    def _expand(self) -> bytes:
        # An own handle and reads by position, so that threads do not wait for each other.
        with open(self.path, "rb", buffering=0) as file:
            signature, name, extra = _LOCAL.unpack(os.pread(file.fileno(), _LOCAL.size, self.offset))
            if signature != b"PK\x03\x04":
                raise OSError("the zip's directory does not point to a member")
            content = os.pread(file.fileno(), self.packed, self.offset + _LOCAL.size + name + extra)
        if self.method == STORED:
            return content
        # The directory may state a wrong size, so at most one byte more than stated is expanded.
        return isal_zlib.decompressobj(-15).decompress(content, self.size + 1)

"""Where clips come from: folders, zips read in place, array files of other data sets. Clips are read when asked for."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import IsalError

from preprocessing import ntu
from preprocessing.arrays import array_source
from preprocessing.entries import COLUMNS, Entry, Source, SourceError
from preprocessing.skeleton import RawClip, SkeletonError, parse
from preprocessing.stages import Marks

SUFFIX = ".skeleton"
MAX_BYTES = 64 << 20  # of one recording
MAX_TOTAL = 40 << 30  # of all recordings of one zip; the official ones stay under 25 GB
MAX_RATIO = 200
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_LOCAL = struct.Struct("<4s22xHH")  # of a member's local header: signature, lengths of name and extra field


def open_sources(paths: Iterable[Path]) -> Source:
    """One source out of folders and zips of `.skeleton` files, or out of one array file."""
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist; name a folder, a .zip or an array .npz")
    arrays = [path for path in paths if path.suffix == ".npz"]
    if arrays and len(paths) > 1:
        raise SourceError(f"{arrays[0]} is an array file and must be the only source; build the others on their own")
    return array_source(arrays[0]) if arrays else _ntu_source(paths)


def _ntu_source(paths: list[Path]) -> Source:
    found: dict[str, Entry] = {}
    for path in paths:
        for one in _folder(path) if path.is_dir() else _zip(path):
            if one.name in found:
                raise SourceError(
                    f"clip {one.name} occurs twice: {found[one.name].origin} and {one.origin}; remove one"
                )
            found[one.name] = one
    if not found:
        raise SourceError(f"no {SUFFIX} files in {', '.join(map(str, paths))}")
    entries: list[Entry] = []
    samples: list[ntu.SampleName] = []
    unusable: list[SkeletonError] = []
    for name in sorted(found):
        try:
            samples.append(ntu.parse_name(name))
        except ValueError as error:
            unusable.append(SkeletonError(name, 0, "bad-name", str(error)))
            continue
        entries.append(found[name])
    numbers_N5 = np.array(samples, np.int64).reshape(-1, 5)
    columns = dict(zip(COLUMNS, (numbers_N5[:, 4] - 1, *numbers_N5[:, :4].T), strict=True))
    classes = 60 if np.all(columns["label"] < 60) else 120
    return Source(
        dataset=f"ntu{classes}",
        joint_names=list(ntu.JOINT_NAMES),
        bones=ntu.BONES,
        fps=ntu.FPS,
        class_names=list(ntu.CLASS_NAMES[:classes]),
        marks=Marks(ntu.CENTRE_JOINT, ntu.SHOULDERS, ntu.SPINE),
        kinect=True,
        entries=entries,
        columns=columns,
        missing=ntu.MISSING,
        unusable=unusable,
    )


def _wanted(file_name: str) -> bool:
    """Whether a file is a recording by its name; what archivers of other systems add beside one is not."""
    return file_name.lower().endswith(SUFFIX) and not file_name.startswith(".")


def _folder(folder: Path) -> Iterator[Entry]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in filter(_wanted, names):
            path = os.path.join(parent, name)
            try:
                about = os.stat(path)
                size, stamp = about.st_size, about.st_mtime_ns
            except OSError:  # reading it will say what is wrong
                size, stamp = 0, 0
            yield Entry(name[: -len(SUFFIX)], path, size, stamp, _from_folder, path)


def _from_folder(path: str, name: str) -> RawClip:
    return parse(_read_file(path, name), name)


def _read_file(path: str, name: str) -> bytes:
    try:
        # Unbuffered, in one go: half the system calls of a buffered file.
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            _bounded(name, size)
            content = file.read(size + 1) or b""
            while part := file.read(MAX_BYTES + 1 - len(content)):
                content += part
    except OSError as error:
        raise SkeletonError(name, 0, "unreadable", str(error)) from None
    _bounded(name, len(content))
    return content


def _bounded(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise SkeletonError(name, 0, "too-large", f"more than {MAX_BYTES >> 20} MiB")


def _zip(path: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _wanted(PurePosixPath(member.filename).name)]
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise SourceError(f"{path} is no readable zip ({error}); name a folder, a .zip or an array .npz") from None
    if (total := sum(member.file_size for member in members)) > MAX_TOTAL:
        raise SourceError(f"{path} claims to hold {total / 1e9:.0f} GB; at most {MAX_TOTAL / 1e9:.0f} GB are read")
    where = os.path.abspath(path)
    for member in members:
        name = PurePosixPath(member.filename).name[: -len(SUFFIX)]
        packed = Packed(where, name, member.header_offset, member.compress_size, member.file_size, member.CRC,
                        member.compress_type, bool(member.flag_bits & 1))  # fmt: skip
        yield Entry(name, f"{path}:{member.filename}", member.file_size, member.CRC, _from_zip, packed)


def _from_zip(packed: Packed, name: str) -> RawClip:
    return parse(packed.read(), name)


class Packed(NamedTuple):
    """A member of a zip, read in place by any thread or process: nothing is shared but the file."""

    path: str
    name: str
    offset: int  # of its local header
    packed: int  # bytes
    size: int  # bytes
    crc: int
    method: int
    encrypted: bool

    def read(self) -> bytes:
        """Its bytes, checked against its size and CRC; SkeletonError for what is damaged, hidden or swollen."""
        _bounded(self.name, max(self.size, self.packed))
        if self.size > MAX_RATIO * max(self.packed, 1):
            raise SkeletonError(self.name, 0, "too-compressed", f"expands more than {MAX_RATIO} times")
        if self.encrypted or self.method not in (STORED, DEFLATED):
            why = "encrypted" if self.encrypted else f"compressed by method {self.method}; use deflate"
            raise SkeletonError(self.name, 0, "unreadable", f"the zip member is {why}")
        try:
            content = self._expand()
        except (OSError, IsalError, struct.error) as error:  # type: ignore[misc]  # its stub is not of a class
            raise SkeletonError(self.name, 0, "unreadable", str(error)) from None
        if len(content) != self.size or isal_zlib.crc32(content) != self.crc:
            raise SkeletonError(self.name, 0, "unreadable", "the zip member does not match its size and CRC-32")
        return content

    def _expand(self) -> bytes:
        # A handle of its own and reads by position, so that threads wait for no other.
        with open(self.path, "rb", buffering=0) as file:
            signature, name, extra = _LOCAL.unpack(os.pread(file.fileno(), _LOCAL.size, self.offset))
            if signature != b"PK\x03\x04":
                raise OSError("the zip's directory leads to no member")
            content = os.pread(file.fileno(), self.packed, self.offset + _LOCAL.size + name + extra)
        if self.method == STORED:
            return content
        # The directory may lie about the size, so no more than it says, and one byte, is ever expanded.
        return isal_zlib.decompressobj(-15).decompress(content, self.size + 1)

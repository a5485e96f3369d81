"""Trees: the files of a folder, of a zip, or one file, read in the same way wherever they lie."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import SourceError
from preprocessing.sources.zips import MAX_BYTES, Packed, check_size, hidden, members

LABELS = "labels.csv"  # in a folder of the recordings
TRUTH = "truth.json"  # in a folder of preprocessing.synthetic
SNIFFED = 3  # files by which a format is recognised: the first may be an index
POINTER = b"version https://git-lfs"
HEAD = 1 << 16  # bytes by which a format is recognised


class Item(NamedTuple):
    """One file of a tree."""

    path: str  # inside the tree, with forward slashes
    origin: str  # where it lies, for messages
    size: int  # bytes
    stamp: int  # changes with the content: modification time in ns, or a checksum
    place: str | Packed

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """File name without folders and suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix in lower case, with its dot."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def folder(self) -> str:
        """Folder inside the tree, "" for the tree itself."""
        return self.path.rpartition("/")[0]

    def read(self) -> bytes:
        """Return the content; SkeletonError if it cannot be read."""
        return content(self.place, self.stem)


def content(place: str | Packed, name: str) -> bytes:
    """Read a file of a tree; SkeletonError with the clip's name if it is unreadable or too large."""
    raw = place.read() if isinstance(place, Packed) else read_file(place, name)
    if raw.startswith(POINTER):
        raise SkeletonError(name, 0, "pointer", "a Git LFS pointer, not the data; fetch the data with git lfs pull")
    return raw


def read_file(path: str, name: str) -> bytes:
    """Read a regular file of at most `MAX_BYTES`; SkeletonError with the clip's name otherwise."""
    try:
        # Unbuffered, in one go: half the system calls of a buffered file. Not blocking: a FIFO would wait for a writer.
        with open(path, "rb", buffering=0, opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise SkeletonError(name, 0, "unreadable", f"{path} is not a regular file")
            check_size(name, about.st_size)
            got = file.read(about.st_size + 1) or b""
            while part := file.read(MAX_BYTES + 1 - len(got)):
                got += part
    except OSError as error:
        raise SkeletonError(name, 0, "unreadable", f"{path}: {error.strerror or error}") from None
    check_size(name, len(got))
    return got


class Tree:
    """A path that was named as a source.

    Args:
        path: A folder, a zip or another file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self.head = b"" if self.is_folder else _head(path)
        """First bytes of a file."""
        self.is_zip = _is_archive(path, self.head)

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """Files in the order of their paths; hidden ones are left out.

        Raises:
            SourceError: A folder cannot be listed, or the zip is damaged.
        """
        if self.is_folder:
            return tuple(_walk(str(self.path), "", set()))
        if self.is_zip:
            found = ((member, packed) for member, packed in members(self.path))
            return tuple(Item(m, f"{self.path}:{m}", packed.size, packed.crc, packed) for m, packed in found)
        about = self.path.stat()
        return (Item(self.path.name, str(self.path), about.st_size, about.st_mtime_ns, str(self.path)),)

    @property
    def has_labels(self) -> bool:
        """Return whether the tree has a labels CSV."""
        return any(item.name == LABELS for item in self.items)

    def having(self, *suffixes: str) -> list[Item]:
        """Return the files with one of these suffixes (lower case)."""
        return [item for item in self.items if item.path.lower().endswith(suffixes)]

    def has_member(self, *members: str) -> bool:
        """Return whether the tree is an npz with one of these members."""
        if self.is_folder or self.is_zip or self.head[:2] != b"PK":
            return False
        try:
            with zipfile.ZipFile(self.path) as archive:
                return any(member in archive.NameToInfo for member in members)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False

    def first_bytes(self, *suffixes: str) -> bytes:
        """Return the first bytes of the first file with one of these suffixes; empty if there is none."""
        return next(self.beginnings(*suffixes), b"")

    def beginnings(self, *suffixes: str) -> Iterator[bytes]:
        """Yield the first bytes of the first files with one of these suffixes that can be read."""
        for item in self.having(*suffixes)[:SNIFFED]:
            try:
                yield _head(Path(item.place)) if isinstance(item.place, str) else item.read()[:HEAD]
            except (SkeletonError, SourceError):
                continue


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise SourceError(f"{path} is not a regular file. Name a file, a folder or a zip.")
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}). Grant permission to read it.") from None


def _is_archive(path: Path, head: bytes) -> bool:
    """Return whether a file is a zip but not an npz, whose first member is an array and which may have any suffix."""
    if head[:4] not in (b"PK\x03\x04", b"PK\x05\x06") or path.suffix.lower() == ".npz":
        return False
    return not head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy")


def _walk(folder: str, inside: str, seen: set[tuple[int, int]]) -> Iterator[Item]:
    """Yield the files under a folder. A folder that links reach twice is walked once."""
    try:
        about = os.stat(folder)
        listed = sorted(os.scandir(folder), key=lambda one: one.name)
    except OSError as error:
        raise SourceError(
            f"folder {folder} cannot be read ({error.strerror}). Grant permission to read it, or move it elsewhere."
        ) from None
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    for one in listed:
        if hidden(one.name):
            continue
        if one.is_dir():
            yield from _walk(one.path, f"{inside}{one.name}/", seen)
            continue
        try:
            about = one.stat()
            yield Item(inside + one.name, one.path, about.st_size, about.st_mtime_ns, one.path)
        except OSError:  # reading it later reports the error
            yield Item(inside + one.name, one.path, 0, 0, one.path)

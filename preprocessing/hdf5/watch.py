"""Watch a data file that is in use: another file in its place, other content, or a cut end is an IntegrityError.

The frames are memory-mapped. What is written into the file appears in the map, and reading behind a cut end raises
SIGBUS, which ends a process without a word unless `end_on_bus_error` is called first.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import NamedTuple

from preprocessing import exits
from preprocessing.files import IntegrityError

REMEDY = "Put the file back that the run was trained on, and run the same command again."


class Identity(NamedTuple):
    """Identity of a file, without reading it."""

    device: int
    inode: int
    size: int
    modified: int
    """Nanoseconds."""
    changed: int
    """Of content, name or permissions; nanoseconds. It cannot be set back."""

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Return the identity of the file at a path. OSError if it cannot be looked at."""
        stat = os.stat(path)
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def fault(self, path: Path) -> str:
        """Return how the file at the path differs; empty if it is the same, up to `changed`."""
        try:
            now = Identity.of(path)
        except OSError as error:
            return f"cannot be read any more ({error.strerror})"
        if (now.device, now.inode) != (self.device, self.inode):
            return "was replaced by another file"
        if now.size != self.size:
            return f"was {'truncated' if now.size < self.size else 'extended'} from {self.size} to {now.size} bytes"
        return "" if now.modified == self.modified else "was written to"


class Watch:
    """Watches an open data file.

    Args:
        path: The file.
        identity: Its identity when it was opened.
        content_sha256: Hash of its content.
    """

    def __init__(self, path: Path, identity: Identity, content_sha256: str) -> None:
        self.path, self.identity, self.content_sha256 = path, identity, content_sha256

    def check(self) -> None:
        """Look at the file, without reading it unless its name or permissions changed.

        Raises:
            IntegrityError: It was replaced, written to, truncated or removed.
        """
        if fault := self.identity.fault(self.path):
            raise IntegrityError(f"{self.path} {fault} while it was in use. {REMEDY}")
        now = Identity.of(self.path)
        if now != self.identity:
            self.verify()
            self.identity = now

    def verify(self) -> None:
        """Read the whole file and compare every checksum. IntegrityError if its content is another one."""
        from preprocessing.hdf5.reader import open_file

        try:
            same = open_file(self.path).content_sha256 == self.content_sha256
        except OSError as error:
            raise IntegrityError(f"{self.path} cannot be read any more ({error.strerror}). {REMEDY}") from None
        except IntegrityError:
            same = False
        if not same:
            raise IntegrityError(f"{self.path} has other content than when it was opened. {REMEDY}")


_handlers: list[object] = []


def end_on_bus_error(path: Path) -> None:
    """From now on a read behind the end of a mapped file ends the process with one line and exit code 6.

    Args:
        path: The file that is named.
    """
    message = f"error: {path} was truncated or became unreadable while it was in use. {REMEDY}\n".encode()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def end(_: int) -> None:
        os.write(2, message)
        os._exit(exits.INTEGRITY)

    # Python's own handlers run after the instruction that failed, which would fail again and again.
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    _handlers.append(end)  # it must live as long as it may be called
    install(signal.SIGBUS, ctypes.cast(end, ctypes.c_void_p))

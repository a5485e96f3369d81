"""Rows on their way into a file: appended to plain files, so that memory stays bounded."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preprocessing.files import sha256_file
from preprocessing.hdf5.storage import rows_offset

SPOOLED = ("joints", "present")
SYNC = 64 << 20  # bytes after which rows are sent to the disk


class Spool:
    """Rows on their way into a file, appended to plain files so that memory stays bounded.

    The file `joints` starts with a gap as large as HDF5 needs before the rows, and finally becomes the output. The file
    `tracked` exists once a body with an absent joint was appended.

    Args:
        folder: Folder on the file system of the output; the files go into a temporary folder inside it.
        joints: Number of joints V.
        keep: Put the files into `folder` itself and leave them there for a later attempt; see `recover`.
        channels: Number of channels C.
        tracked: Type of the marks of joints that were found: bool, or float16 for scores.
    """

    def __init__(self, folder: Path, joints: int, keep: bool = False, channels: int = 3, tracked: Any = bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder if keep else Path(tempfile.mkdtemp(prefix=".spool-", dir=folder))
        self.joints, self.channels, self.tracked = joints, channels, np.dtype(tracked)
        self.row_bytes, self.mark_bytes = joints * channels * 4, joints * self.tracked.itemsize
        self.rows = 0
        self.keep = keep
        self.gaps = False
        """True if a joint is absent in a row."""
        self._files: dict[str, BinaryIO] = {name: open(self.folder / name, "a+b") for name in SPOOLED}  # noqa: SIM115 - see close()
        self._digests = {name: hashlib.sha256() for name in SPOOLED}
        self._offset = rows_offset(joints, channels)
        self._synced = 0
        self._sync = threading.Thread()
        if os.fstat(self._files["joints"].fileno()).st_size < self._offset:
            self._files["joints"].truncate(self._offset)
        self._files["joints"].seek(self._offset)
        self._files["present"].seek(0)

    def append(self, joints_TV3: np.ndarray, present_T: np.ndarray, tracked_TV: np.ndarray | None = None) -> int:
        """Append the rows of one body and return the number of the first.

        Args:
            joints_TV3: Metres; rows of absent frames and absent joints must be zero.
            present_T: Whether the body was tracked in each frame.
            tracked_TV: Joints that were found, as a mask or as scores; None if no joint is absent.

        Raises:
            ValueError: The shapes do not match each other or the number of joints.
        """
        marks = len(present_T), self.joints
        if joints_TV3.shape != (*marks, self.channels) or (tracked_TV is not None and tracked_TV.shape != marks):
            raise ValueError(
                f"rows of shape {joints_TV3.shape} do not match {len(present_T)} frames of {self.joints} joints"
            )
        first = self.rows
        self.extend(
            np.ascontiguousarray(joints_TV3, np.float32).tobytes(),
            np.ascontiguousarray(present_T, bool).tobytes(),
            b"" if tracked_TV is None else np.ascontiguousarray(tracked_TV, self.tracked).tobytes(),
        )
        return first

    def extend(self, joints: bytes, present: bytes, tracked: bytes = b"") -> None:
        """Append rows as bytes: (R, V, C) float32, (R,) bool, and marks (R, V), empty if all joints were found."""
        first = self.rows
        self._take(joints, present)
        self._files["joints"].write(joints)
        self._files["present"].write(present)
        self._mark(first, tracked)

    def recover(self, rows: int, crc: int, gaps: bool = False) -> bool:
        """Keep the next `rows` rows of an earlier attempt if their CRC-32 matches.

        Args:
            rows: Number of rows.
            crc: CRC-32 of their bytes as they were given to `extend`: joints, present, tracked.
            gaps: Whether marks were given.
        """
        joints = self._files["joints"].read(rows * self.row_bytes)
        present = self._files["present"].read(rows)
        tracked = self._read_marks(rows) if gaps else b""
        if len(present) != rows or zlib.crc32(tracked, zlib.crc32(present, zlib.crc32(joints))) != crc:
            return False
        first = self.rows
        self._take(joints, present)
        self._mark(first, tracked)
        return True

    def cut(self) -> None:
        """Remove all rows that were not recovered."""
        self._files["joints"].truncate(self._offset + self.rows * self.row_bytes)
        self._files["present"].truncate(self.rows)
        if self.gaps:
            self._files["tracked"].truncate(self.rows * self.mark_bytes)
        else:
            (self.folder / "tracked").unlink(missing_ok=True)

    def _take(self, joints: bytes, present: bytes) -> None:
        self.rows += len(present)
        self._digests["joints"].update(joints)
        self._digests["present"].update(present)

    def _mark(self, first: int, tracked: bytes) -> None:
        """Write the marks of all rows from `first` on; all joints were found if `tracked` is empty."""
        if tracked and not self.gaps:
            self.gaps = True
            self._files["tracked"] = open(os.open(self.folder / "tracked", os.O_RDWR | os.O_CREAT), "r+b")  # noqa: SIM115
            self._files["tracked"].write(self._found(0, first))
        if self.gaps:
            self._files["tracked"].seek(first * self.mark_bytes)
            self._files["tracked"].write(tracked or self._found(first, self.rows))

    def _found(self, first: int, end: int) -> bytes:
        """Marks of rows without a gap: all joints of a body that is present, none of an absent one."""
        self._files["present"].flush()
        with open(self.folder / "present", "rb") as file:
            file.seek(first)
            present_R = np.frombuffer(file.read(end - first), bool)
        return np.repeat(present_R, self.joints).astype(self.tracked).tobytes()

    def _read_marks(self, rows: int) -> bytes:
        """Return the marks that an earlier attempt left of the next rows; fewer or none if there are not as many."""
        left = self.folder / "tracked"
        if not left.exists():
            return b""
        with open(left, "rb") as file:
            file.seek(self.rows * self.mark_bytes)
            return file.read(rows * self.mark_bytes)

    def digests(self) -> dict[str, str]:
        """Hex sha256 of the rows as they were appended, by array name."""
        digests = {f"frames/{name}": digest.hexdigest() for name, digest in self._digests.items()}
        if self.gaps:
            self._files["tracked"].flush()
            digests["frames/tracked"] = sha256_file(self.folder / "tracked")
        return digests

    def flush(self) -> None:
        """Flush all rows to the operating system, and start sending them to the disk."""
        for file in self._files.values():
            file.flush()
        # Sent to the disk during the build, so that its end need not wait for all rows.
        if self.rows - self._synced > SYNC // self.row_bytes and not self._sync.is_alive():
            self._synced = self.rows
            self._sync = threading.Thread(target=os.fdatasync, args=(self._files["joints"].fileno(),))
            self._sync.start()

    def close(self) -> None:
        """Close the files; remove them unless they are kept."""
        if self._sync.is_alive():
            self._sync.join()
        for file in self._files.values():
            # On a full disk the last bytes cannot be written; they are lost, and redone by the next attempt.
            with suppress(OSError):
                file.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

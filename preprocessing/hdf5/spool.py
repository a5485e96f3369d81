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

import numpy as np

from preprocessing.hdf5.storage import rows_offset

SPOOLED = ("joints", "present")
SYNC = 64 << 20  # bytes after which rows are sent to the disk


class Spool:
    """Rows on their way into a file, appended to plain files so that memory stays bounded.

    The file `joints` starts with a gap as large as HDF5 needs before the rows, and finally becomes the output.

    Args:
        folder: Folder on the file system of the output; the files go into a temporary folder inside it.
        joints: Number of joints V.
        keep: Put the files into `folder` itself and leave them there for a later attempt; see `recover`.
    """

    def __init__(self, folder: Path, joints: int, keep: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder if keep else Path(tempfile.mkdtemp(prefix=".spool-", dir=folder))
        self.joints = joints
        self.rows = 0
        self.keep = keep
        self._files = {name: open(self.folder / name, "a+b") for name in SPOOLED}  # noqa: SIM115 - see close()
        self._digests = {name: hashlib.sha256() for name in SPOOLED}
        self._offset = rows_offset(joints)
        self._synced = 0
        self._sync = threading.Thread()
        if os.fstat(self._files["joints"].fileno()).st_size < self._offset:
            self._files["joints"].truncate(self._offset)
        self._files["joints"].seek(self._offset)
        self._files["present"].seek(0)

    def append(self, joints_TV3: np.ndarray, present_T: np.ndarray) -> int:
        """Append the rows of one body and return the number of the first.

        Args:
            joints_TV3: Metres; rows of absent frames must be zero.
            present_T: Whether the body was tracked in each frame.

        Raises:
            ValueError: The shapes do not match each other or the number of joints.
        """
        if joints_TV3.shape != (len(present_T), self.joints, 3):
            raise ValueError(
                f"rows of shape {joints_TV3.shape} do not match {len(present_T)} frames of {self.joints} joints"
            )
        first = self.rows
        self.extend(
            np.ascontiguousarray(joints_TV3, np.float32).tobytes(), np.ascontiguousarray(present_T, bool).tobytes()
        )
        return first

    def extend(self, joints: bytes, present: bytes) -> None:
        """Append rows as bytes: (R, V, 3) float32 and (R,) bool."""
        self._take(joints, present)
        self._files["joints"].write(joints)
        self._files["present"].write(present)

    def recover(self, rows: int, crc: int) -> bool:
        """Keep the next `rows` rows of an earlier attempt if their CRC-32 (joints, then present) matches."""
        joints = self._files["joints"].read(rows * self.joints * 12)
        present = self._files["present"].read(rows)
        if len(present) != rows or zlib.crc32(present, zlib.crc32(joints)) != crc:
            return False
        self._take(joints, present)
        return True

    def cut(self) -> None:
        """Remove all rows that were not recovered."""
        self._files["joints"].truncate(self._offset + self.rows * self.joints * 12)
        self._files["present"].truncate(self.rows)

    def _take(self, joints: bytes, present: bytes) -> None:
        self.rows += len(present)
        self._digests["joints"].update(joints)
        self._digests["present"].update(present)

    def digests(self) -> dict[str, str]:
        """Hex sha256 of the rows as they were appended, by array name."""
        return {f"frames/{name}": digest.hexdigest() for name, digest in self._digests.items()}

    def flush(self) -> None:
        """Flush all rows to the operating system, and start sending them to the disk."""
        for file in self._files.values():
            file.flush()
        # Sent to the disk during the build, so that its end need not wait for all rows.
        if self.rows - self._synced > SYNC // (self.joints * 12) and not self._sync.is_alive():
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

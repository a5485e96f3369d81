"""Append-only journal: one JSON record per line; a last line that a kill or a power cut tore is dropped.

The build's, the run's and the study's ledgers are journals.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from preprocessing import files


class Journal:
    """The journal at `path`, opened for appending. One process at a time writes it; any number may `read` it.

    Opening creates the file if there is none, and cuts off a torn last line.

    Args:
        path: The file. Its folder must exist.
        checksum: Each line starts with its CRC-32, and the first line that does not match ends the journal. Without it,
            only a last line without a line break counts as torn.
        sync: Each record is on the disk when `append` returns. Without it, a power cut may lose the last records.

    Raises:
        IntegrityError: A line with a line break, and a matching checksum if lines have one, is not JSON.
    """

    def __init__(self, path: Path, *, checksum: bool = False, sync: bool = True) -> None:
        self.path, self.checksum, self.sync = path, checksum, sync
        if not path.exists():
            path.touch()
            if sync:
                files.sync_folder(path.parent)
        lines = _whole_lines(path, checksum)
        self.records = [record for record, _ in lines]
        """Records found at opening."""
        self._ends = [end for _, end in lines]
        self._cut(self._ends[-1] if lines else 0)

    def keep(self, count: int) -> None:
        """Drop the records after the first `count` of those found at opening; call it before `append`."""
        if count < len(self.records):
            self._cut(self._ends[count - 1] if count else 0)
            del self.records[count:], self._ends[count:]

    def _cut(self, size: int) -> None:
        if self.path.stat().st_size > size:
            os.truncate(self.path, size)
            if self.sync:
                files.sync_file(self.path)

    def append(self, record: dict[str, Any]) -> None:
        """Append a record as one line. If this fails (disk full), the file is as before."""
        line = _encode(record, self.checksum)
        with open(self.path, "ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(line)
                while rest:  # the kernel may take a part of it
                    rest = rest[file.write(rest) :]
                if self.sync:
                    os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(end)
                raise


def read(path: Path, *, checksum: bool = False) -> list[Any]:
    """Return the records of the journal at `path`, without a torn last line; none if there is no file.

    The file is not changed, so this is safe while another process writes it.
    """
    return [record for record, _ in _whole_lines(path, checksum)] if path.exists() else []


def _encode(record: dict[str, Any], checksum: bool) -> bytes:
    if not checksum:
        return json.dumps(record).encode() + b"\n"
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _whole_lines(path: Path, checksum: bool) -> list[tuple[Any, int]]:
    """(record, offset of its end) of each line up to the first torn one."""
    lines: list[tuple[Any, int]] = []
    end = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or (checksum and line[:9] != b"%08x " % zlib.crc32(line[9:-1])):
                break
            end += len(line)
            try:
                lines.append((json.loads(line[9:] if checksum else line), end))
            except ValueError as error:
                raise files.IntegrityError(
                    f"{path}: line {len(lines) + 1} is damaged ({error}). Restore the file from a copy, or delete its "
                    "folder to start over."
                ) from None
    return lines


class Tail:
    """Reads a journal (without checksums) as another process writes it.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, 0

    def read(self) -> list[Any]:
        """Return the records since the last call."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._end)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._end += len(whole)
        return [json.loads(line) for line in whole.split(b"\n")[:-1]]

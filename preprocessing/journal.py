"""Append-only journal: one JSON record per line; a last line that a kill or a power cut tore is dropped.

The build's, the run's and the study's ledgers are journals. Lines are appended, and nothing else: where the end must
go, the whole file is published anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from preprocessing import files

CHAIN = "chain"
"""Key of a line's checksum over it and all lines before."""
START = hashlib.sha256(b"skelnorm journal").hexdigest()
REMEDY = "Restore the file from a copy, or delete its folder to start over."


class Line(NamedTuple):
    """One whole line of a journal."""

    record: Any
    end: int
    """Offset of its end."""
    chain: str
    """Checksum over it and all lines before."""
    chained: bool
    """True if the checksum is part of the line."""


class Journal:
    """The journal at `path`, opened for appending. One process at a time writes it; any number may `read` it.

    Opening creates the file if there is none, and drops a torn last line.

    Args:
        path: The file. Its folder must exist.
        checksum: Each line starts with its CRC-32, and the first line that does not match ends the journal. Without it,
            only a last line without a line break counts as torn.
        sync: Each record is on the disk when `append` returns. Without it, a power cut may lose the last records.
        chain: Each line holds a checksum over it and all lines before, so that an edited, dropped or inserted line is
            found.
        remedy: Last sentence of the message about a damaged line.
        lines: Its lines, where they have just been read; None: they are read.

    Raises:
        IntegrityError: A line with a line break, and a matching checksum if lines have one, is not JSON, has a number
            that is not finite, or breaks the chain.
    """

    def __init__(
        self,
        path: Path,
        *,
        checksum: bool = False,
        sync: bool = True,
        chain: bool = False,
        remedy: str = REMEDY,
        lines: list[Line] | None = None,
    ) -> None:
        self.path, self.checksum, self.sync, self.chain = path, checksum, sync, chain
        if not path.exists():
            path.touch()
            if sync:
                files.sync_folder(path.parent)
        self._lines = read_lines(path, checksum=checksum, remedy=remedy) if lines is None else lines
        self._cut(len(self._lines))

    count: int
    """Number of lines."""
    last: str
    """Checksum of the last line."""

    @property
    def records(self) -> list[Any]:
        """Records found at opening."""
        return [line.record for line in self._lines]

    def keep(self, count: int) -> None:
        """Drop the records after the first `count` of those found at opening; call it before `append`."""
        if count < len(self._lines):
            del self._lines[count:]
            self._cut(count)

    def _cut(self, count: int) -> None:
        size = self._lines[count - 1].end if count else 0
        self.count, self.last = count, self._lines[-1].chain if self._lines else START
        if self.path.stat().st_size > size:
            with open(self.path, "rb") as file:
                content = file.read(size)
            files.publish_bytes(self.path, content)

    def append(self, record: dict[str, Any]) -> None:
        """Append a record as one line. If this fails (disk full), the file is as before.

        Raises:
            ValueError: A number of the record is not finite.
        """
        after = self.last
        if self.checksum:
            text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
            line = b"%08x %s\n" % (zlib.crc32(text), text)
        else:
            after = _linked(self.last, record)
            line = _line(record | {CHAIN: after} if self.chain else record).encode()
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
        self.count, self.last = self.count + 1, after


def read(path: Path, *, checksum: bool = False) -> list[Any]:
    """Return the records of the journal at `path`, without a torn last line; none if there is no file.

    The file is not changed, so this is safe while another process writes it.
    """
    return [line.record for line in read_lines(path, checksum=checksum)]


def read_lines(path: Path, *, checksum: bool = False, remedy: str = REMEDY) -> list[Line]:
    """Return the lines of a journal up to the first torn one; none if there is no file. Raises as `Journal` does."""
    lines: list[Line] = []
    end, last, chained = 0, START, False
    if not path.exists():
        return lines
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or (checksum and line[:9] != b"%08x " % zlib.crc32(line[9:-1])):
                break
            end += len(line)
            number = len(lines) + 1
            try:
                record = files.parse_json(line[9:] if checksum else line)
            except (ValueError, RecursionError) as error:
                raise files.IntegrityError(f"{path}: line {number} is damaged ({error}). {remedy}") from None
            if checksum:
                lines.append(Line(record, end, "", False))
                continue
            found = record.pop(CHAIN, None) if isinstance(record, dict) else None
            last = _linked(last, record)
            if (found is None and chained) or found not in (None, last):
                raise files.IntegrityError(
                    f"{path}: line {number}, or one before it, was edited, dropped or inserted (checksum). {remedy}"
                )
            chained = found is not None
            lines.append(Line(record, end, last, chained))
    return lines


def publish(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a whole journal of these records, with chained lines, completely or not at all."""
    last, lines = START, []
    for record in records:
        last = _linked(last, record)
        lines.append(_line(record | {CHAIN: last}))
    files.publish_text(path, "".join(lines))


def _linked(before: str, record: Any) -> str:
    return hashlib.sha256(f"{before}\n{json.dumps(record, allow_nan=False)}".encode()).hexdigest()


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class Tail:
    """Reads a journal (without checksums) as another process writes it.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._end = path, 0

    def read(self) -> list[Any]:
        """Return the records since the last call; all of them if the file was cut behind them meanwhile."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(max(0, self._end - 1))
            content = file.read()
            if self._end and not content.startswith(b"\n"):
                file.seek(0)
                self._end, content = 0, b"\n" + file.read()
        content = content[1:] if content.startswith(b"\n") else content
        whole = content[: content.rfind(b"\n") + 1]
        self._end += len(whole)
        records = [json.loads(line) for line in whole.split(b"\n")[:-1]]
        return [{key: value for key, value in record.items() if key != CHAIN} for record in records]

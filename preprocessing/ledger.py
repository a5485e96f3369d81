"""What a build has done so far, so that one that was killed goes on where it stopped and ends with the same bytes.

A folder beside the output holds the rows (a Spool) and one line a unit. A line is written after its rows, carries
their CRC-32 and its own, and counts only if both fit: so whatever a kill or a power cut tore is done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from isal import isal_zlib

from preprocessing.hdf5 import Spool
from preprocessing.sources.entries import Entry
from preprocessing.stages import Decision
from preprocessing.work_units import Quarantined, Shape, WorkUnit

LINES = "ledger"


def identity(recipe: dict[str, Any], entries: Sequence[Entry]) -> str:
    """A digest that differs when the recipe, a clip's place, size or time of change, or the list of clips does."""
    digest = sha256(json.dumps(recipe, sort_keys=True).encode())
    for name, origin, size, stamp, *_ in entries:
        digest.update(f"{name}\0{origin}\0{size}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class Ledger:
    """The folder `folder` of the build `identity`: taken up where it fits, begun anew where it does not."""

    def __init__(self, folder: Path, identity: str, joints: int) -> None:
        self.folder = folder
        self.done: list[WorkUnit] = []
        """Batches of an earlier attempt, without their rows."""
        kept = 0
        if not (folder / LINES).is_file() or next(_lines(folder / LINES), (0, None))[1] != {"identity": identity}:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / LINES).write_bytes(_line({"identity": identity}))
        self.spool = Spool(folder, joints, keep=True)
        lines = _lines(folder / LINES)
        kept, _ = next(lines)
        for end, record in lines:
            unit = _unit(record)
            if not self.spool.recover(record["rows"], record["crc"]):
                break
            self.done.append(unit)
            kept = end
        self.spool.cut()
        self._file = open(folder / LINES, "r+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.truncate(kept)
        self._file.seek(kept)

    @property
    def next(self) -> int:
        """Position of the first entry that is still to be done."""
        return self.done[-1].first + self.done[-1].entries if self.done else 0

    def add(self, unit: WorkUnit) -> None:
        """Append the rows of a unit, then its line."""
        self.spool.extend(unit.joints, unit.present)
        self.spool.flush()
        record = unit._replace(joints=b"", present=b"")._asdict()
        record["refused"] = record.pop("quarantined")  # the key of files that older builds left
        record |= {"rows": len(unit.present), "crc": _crc(unit.joints, unit.present)}
        self._file.write(_line({key: value for key, value in record.items() if key not in ("joints", "present")}))

    def close(self) -> None:
        """Leave the folder for a later attempt."""
        self.spool.close()
        self._file.close()

    def remove(self) -> None:
        """The build needs it no more."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _crc(joints: bytes, present: bytes) -> int:
    return isal_zlib.crc32(present, isal_zlib.crc32(joints))


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (isal_zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(place behind it, content) of every line up to the first torn one."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            end += len(line)
            if not line.endswith(b"\n") or line[:9] != b"%08x " % isal_zlib.crc32(line[9:-1]):
                return
            yield end, json.loads(line[9:])


def _unit(record: dict[str, Any]) -> WorkUnit:
    return WorkUnit(
        first=record["first"],
        entries=record["entries"],
        read=record["read"],
        joints=b"",
        present=b"",
        shapes=[Shape(*shape) for shape in record["shapes"]],
        decisions=[Decision(*decision) for decision in record["decisions"]],
        quarantined=[Quarantined(*one) for one in record["refused"]],
        skipped=[(name, reason) for name, reason in record["skipped"]],
    )

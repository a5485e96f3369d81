"""Build ledger: the finished work units of a build, from which a killed build resumes and ends with the same bytes.

A folder beside the output holds the rows (a Spool) and a journal with one line per unit. A line is written after its
rows and carries their CRC-32. It counts only if its own checksum and that of its rows match, so a kill or a power cut
costs the work units that it tore and no more. That is why no line waits for the disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from isal import isal_zlib

from preprocessing.faults import faultpoint
from preprocessing.files import LOCK
from preprocessing.hdf5 import Spool
from preprocessing.journal import Journal
from preprocessing.sources.entries import Entry
from preprocessing.stages import Decision
from preprocessing.work_units import Quarantined, Shape, WorkUnit

LINES = "ledger"
ROWS = ("joints", "present", "tracked")  # of a work unit: what the spool holds


def identity(recipe: dict[str, Any], entries: Sequence[Entry]) -> str:
    """Return a digest of the recipe and of each clip's name, place, size and modification time."""
    digest = sha256(json.dumps(recipe, sort_keys=True).encode())
    for name, origin, size, stamp, *_ in entries:
        digest.update(f"{name}\0{origin}\0{size}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class BuildLedger:
    """The ledger in `folder` of the build `identity`: resumed if it is that build's, else started over.

    Args:
        folder: Holds the rows and the journal.
        identity: Digest of the recipe and the clips, see `identity`.
        joints: Joints per body.
        channels: Channels per joint.
        tracked: Type of the marks of joints that were found, see `Spool`.
    """

    def __init__(self, folder: Path, identity: str, joints: int, channels: int = 3, tracked: str = "bool") -> None:
        self.folder = folder
        self.done: list[WorkUnit] = []
        """Work units of an earlier attempt, without their rows."""
        header = {"identity": identity}
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / LINES, checksum=True, sync=False)
        if self._journal.records[:1] != [header]:
            for path in folder.iterdir():
                if path.name != LOCK:  # the folder stays, because the build holds its lock
                    path.unlink()
            self._journal = Journal(folder / LINES, checksum=True, sync=False)
            self._journal.append(header)
        self.spool = Spool(folder, joints, True, channels, tracked)
        for record in self._journal.records[1:]:
            if not self.spool.recover(record["rows"], record["crc"], record.get("gaps", False)):
                break
            self.done.append(_unit(record))
        self.spool.cut()
        self._journal.keep(1 + len(self.done))

    @property
    def next(self) -> int:
        """Index of the first entry that is not done."""
        return self.done[-1].first + self.done[-1].entries if self.done else 0

    def add(self, unit: WorkUnit) -> None:
        """Append the rows of a work unit, then its line."""
        self.spool.extend(unit.joints, unit.present, unit.tracked)
        self.spool.flush()
        faultpoint("rows written")
        record = {key: value for key, value in unit._asdict().items() if key not in ROWS}
        record["refused"] = record.pop("quarantined")  # the key of files that older builds left
        crc = isal_zlib.crc32(unit.tracked, isal_zlib.crc32(unit.present, isal_zlib.crc32(unit.joints)))
        self._journal.append(record | {"rows": len(unit.present), "crc": crc, "gaps": bool(unit.tracked)})

    def close(self) -> None:
        """Close the files; the folder stays for a later attempt."""
        self.spool.close()

    def remove(self) -> None:
        """Close the files and remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


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
        marked=record.get("marked", 0),
        absent=record.get("absent", 0),
    )

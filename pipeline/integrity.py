"""Integrity of a run folder: checksums of its parts hang on the checkpoint's pointer. Imports no torch.

`checkpoint.json` is published after everything that it names, so a kill at any moment leaves a whole folder:

| key | content |
|---|---|
| `file`, `sha256`, `epoch` | the newest checkpoint |
| `settings` | checksum of the settings that it was trained with; it stands in the checkpoint as well |
| `parts` | name of a file -> its allowed checksums; null: the file is absent. Two while the file is being replaced |
| `ledger` | `first` and `last` epoch, and `chain`, the checksum of the last line, which covers all lines before it |
| `adopted` | who accepted which changed parts, and when (`pipeline.adopt`) |
| `fault` | why the checkpoint must not be used, if so |
| `checksum` | checksum of all this |

Folders of versions before 0.2 have the first three keys alone, and are opened unchecked.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pipeline.tracking import ledger
from preprocessing import files
from preprocessing.faults import faultpoint

CONFIG, METADATA, SUMMARY, START, POINTER = "config.json", "data.json", "summary.json", "init.json", "checkpoint.json"
PARTS = (CONFIG, METADATA, SUMMARY, START)
# Settings whose values in config.json a user may edit: a moved run learns the new place of its data.
PLACES = ("data", "out")
# Parts that a resumed training writes again.
REWRITTEN = (METADATA, SUMMARY)
CHECKPOINTS = "checkpoints"
TRIES = 5  # to read a folder that a training is writing


def checksum(values: dict[str, Any], without: tuple[str, ...] = ("checksum",)) -> str:
    """Hex sha256 of JSON values, in any order of their keys.

    Args:
        values: The values.
        without: Top-level keys that do not count.
    """
    kept = {key: value for key, value in values.items() if key not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def signed(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with their own `checksum`."""
    plain = json.loads(json.dumps(values))  # as it will be read: keys that are numbers become texts, in another order
    return plain | {"checksum": checksum(plain)}


def require_signed(path: Path, values: dict[str, Any], remedy: str) -> None:
    """Raise IntegrityError if the values of a file differ from their own `checksum`."""
    if values.get("checksum") != checksum(values):
        raise files.IntegrityError(f"{path} was edited: its checksum differs. {remedy}")


def accept(folder: Path) -> str:
    """Return the remedy for a part that was changed."""
    return f"Put the original back, or accept the folder as it is: skelnorm adopt {folder}"


def digest(folder: Path, name: str) -> str | None:
    """Return the checksum of a part; None if it is absent."""
    path = folder / name
    if not path.is_file():
        return None
    return checksum(files.read_json(path), PLACES) if name == CONFIG else files.sha256_file(path)


def read_pointer(folder: Path) -> dict[str, Any]:
    """Return the content of the pointer; empty if there is none.

    Raises:
        IntegrityError: It is damaged or was edited.
    """
    path = folder / POINTER
    if not path.is_file():
        return {}
    pointer = files.read_json(path, "file", "sha256", "epoch")
    epoch = pointer["epoch"]
    named = re.fullmatch(r"epoch-(\d{4,})\.pt", str(pointer["file"]))
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0 or not named or int(named[1]) != epoch:
        raise files.IntegrityError(
            f"{path} was edited: epoch {epoch!r} and file {pointer['file']!r} do not match. {accept(folder)}"
        )
    if "parts" in pointer or "checksum" in pointer:
        require_signed(path, pointer, accept(folder))
    return pointer


def publish_pointer(folder: Path, pointer: dict[str, Any]) -> None:
    """Publish the pointer with its checksum."""
    files.publish_json(folder / POINTER, signed(pointer))


def new_pointer(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the pointer to a new checkpoint.

    Parts that the pointer before names keep their checksums: an edit during the training is noticed. Those
    of the first checkpoint are those of the files.

    Args:
        folder: The run folder, with the ledger's line of this epoch.
        entry: `file`, `sha256`, `epoch` and `settings` of the checkpoint.
    """
    before = read_pointer(folder)
    parts = before.get("parts") or {name: [digest(folder, name)] for name in PARTS}
    kept = {key: before[key] for key in ("adopted",) if key in before}
    return entry | {"parts": parts, "ledger": ledger.state(folder, entry["epoch"])} | kept


def replace(folder: Path, name: str, values: dict[str, Any] | None) -> None:
    """Publish a part, or remove it (None), so that a kill at any moment leaves a whole folder."""
    pointer, path = read_pointer(folder), folder / name
    if "parts" in pointer:
        after = None
        if values is not None:
            # As publish_json writes it and read_json reads it.
            text = files.json_text(values)
            after = checksum(json.loads(text), PLACES) if name == CONFIG else hashlib.sha256(text.encode()).hexdigest()
        now = digest(folder, name)
        if now != after:
            publish_pointer(folder, pointer | {"parts": pointer["parts"] | {name: [now, after]}})
            faultpoint("part allowed")
        pointer |= {"parts": pointer["parts"] | {name: [after]}}
    if values is None:
        path.unlink(missing_ok=True)
        files.sync_folder(folder)  # before the pointer requires that it is absent
    else:
        files.publish_json(path, values)
    if "parts" in pointer:
        faultpoint("part published")
        publish_pointer(folder, pointer)


def mark(folder: Path, fault: str) -> None:
    """Record in the pointer why its checkpoint must not be used."""
    if pointer := read_pointer(folder):
        publish_pointer(folder, pointer | {"fault": fault})


def check(folder: Path, resuming: bool = False) -> None:
    """Check a run folder: every part is the one that was written, and all belong together.

    Args:
        folder: The folder; one that is no run folder passes.
        resuming: A training is about to write missing parts again.

    Raises:
        IntegrityError: A part was edited, replaced, truncated or removed; the message names it and the remedy.
    """
    for attempt in range(TRIES):
        before = _pointer_text(folder)
        try:
            _check(folder, resuming)
            return
        except files.IntegrityError:
            # A training that runs may have published its next checkpoint in between.
            if attempt == TRIES - 1 or _pointer_text(folder) == before:
                raise


def _pointer_text(folder: Path) -> bytes:
    try:
        return (folder / POINTER).read_bytes()
    except OSError:
        return b""


def _check(folder: Path, resuming: bool) -> None:
    pointer = read_pointer(folder)
    if not pointer:
        _require_no_checkpoint(folder)
        ledger.read(folder, first=1)
        return
    check_weights(folder, pointer)
    if "parts" not in pointer:
        if ledger.chained(folder):
            raise files.IntegrityError(f"{folder / POINTER} was edited: it lacks checksums. {accept(folder)}")
        ledger.read(folder, first=1)
        return
    if "fault" in pointer:
        raise files.IntegrityError(f"{folder}: {pointer['fault']}. Delete the folder and train again.")
    for name in PARTS:
        allowed = pointer["parts"].get(name, [None])
        if (found := digest(folder, name)) in allowed:
            continue
        if found is not None:
            raise files.IntegrityError(f"{folder / name} differs from what was written (sha256). {accept(folder)}")
        if not (resuming and name in REWRITTEN):
            again = " The same python -m pipeline.train command writes it again." if name in REWRITTEN else ""
            raise files.IntegrityError(f"{folder / name} is missing.{again} {accept(folder)}")
    ledger.require_state(folder, pointer["ledger"], finished=(folder / SUMMARY).is_file(), remedy=accept(folder))


def _require_no_checkpoint(folder: Path) -> None:
    """Raise IntegrityError if checkpoints are there, but no pointer. A kill at the first one leaves that one."""
    found = sorted(path.name for path in (folder / CHECKPOINTS).glob("epoch-*.pt"))
    if found and ((folder / SUMMARY).is_file() or found[-1] > "epoch-0001.pt"):
        raise files.IntegrityError(
            f"{folder / POINTER} is missing, but {CHECKPOINTS}/{found[-1]} is there. {accept(folder)}"
        )


def check_weights(folder: Path, pointer: dict[str, Any]) -> None:
    """Raise IntegrityError if the file that the pointer names is missing or has changed."""
    path = folder / CHECKPOINTS / pointer["file"]
    if not path.is_file():
        raise files.IntegrityError(
            f"{folder / POINTER} names {path.name}, which is missing. Put it back, or delete {folder} to start over."
        )
    if files.sha256_file(path) != pointer["sha256"]:
        raise files.IntegrityError(
            f"{path} has changed since it was written (sha256). Put the original back, or delete {folder} to start "
            f"over; weights that are meant to be there: skelnorm adopt {folder}"
        )

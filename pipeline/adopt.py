"""Accept a changed run folder, study folder, model folder or ensemble file as it is now.

    python -m pipeline.adopt runs/bn-loop
    python -m pipeline.adopt models/stgcn
    python -m pipeline.adopt together.json
    python -m pipeline.adopt studies/question

A run folder holds checksums of its settings, metadata, summary, ledger and weights, a study folder of its ledger. A
command that finds another content ends with exit code 6. Where the change was meant, this command writes new checksums,
and records in checkpoint.json or ledger.head.json who accepted which parts, and when. It checks first that the parts
can be used: files are readable, weights fit the settings and are finite, epochs of the ledger are complete. A damaged
file is never accepted.
Exit codes: 0 ok, 2 nothing to adopt, 6 a part is damaged.
"""

from __future__ import annotations

import getpass
import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline import integrity
from pipeline.integrity import CHECKPOINTS, CONFIG, PARTS, POINTER
from pipeline.tracking import ledger
from preprocessing import exits, files, journal, journal_head, startup
from preprocessing.arguments import parse as read_options
from preprocessing.provenance import version


@dataclass(frozen=True)
class Options:
    """Arguments of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, folder of a search or study, folder of pipeline.share, or file of pipeline.ensemble."""


def adopt(path: Path) -> list[str]:
    """Accept a run folder, study folder, model folder or ensemble file as it is; return the names of what had changed.

    Raises:
        ValueError: There is nothing to adopt at the path.
        IntegrityError: A part is damaged: it is not accepted.
    """
    from pipeline import ensemble, share

    if path.is_file() and path.suffix == ".json":
        return ensemble.adopt(path)
    if share.is_model(path):
        return share.adopt(path)
    if (path / CONFIG).is_file():
        return adopt_run(path)
    if (path / ledger.NAME).is_file():
        return adopt_study(path)
    raise ValueError(
        f"{path} is not a run folder, a study folder, a model folder or an ensemble file: there is nothing to adopt."
    )


def adopt_study(folder: Path) -> list[str]:
    """Accept the ledger of a search or a study; see `adopt`."""
    path = folder / ledger.NAME
    adopted = journal_head.adoptions(path)
    try:
        journal_head.check(path, "")
        return []
    except files.IntegrityError as error:
        records = _records(path)
        if not records or not all(isinstance(one, dict) for one in records) or "study" not in records[0]:
            raise error from None
    journal.publish(path, records)
    journal_head.publish(path, len(records), journal.read_lines(path)[-1].chain, [*adopted, record([path.name])])
    return [path.name]


def adopt_run(folder: Path) -> list[str]:
    """Accept a run folder; see `adopt`."""
    from pipeline import checkpoint
    from pipeline.run_folder import Run

    name, epoch, settings = _newest(folder)
    path = folder / CHECKPOINTS / name
    for part in PARTS:
        if (folder / part).is_file():
            files.read_json(folder / part)
    relinked = _relinked_ledger(folder)
    before = _before(folder)
    entry = {"file": name, "sha256": files.sha256_file(path), "epoch": epoch, "settings": settings}
    parts = {part: [integrity.digest(folder, part)] for part in PARTS}
    _require_usable(Run(folder, checked=True), checkpoint.read_state(path))
    if relinked is not None:
        journal.publish(folder / ledger.NAME, relinked)
    pointer = entry | {"parts": parts, "ledger": ledger.state(folder, epoch)}
    changed = [part for part in PARTS if part in before.get("parts", {}) and parts[part] != before["parts"][part]]
    changed += [POINTER] if before.get("checksum") != integrity.checksum(before) else []
    changed += [ledger.NAME] if before.get("ledger") not in (None, pointer["ledger"]) else []
    changed += [f"{CHECKPOINTS}/{name}"] if before.get("sha256") != entry["sha256"] else []
    if changed:
        pointer["adopted"] = [*before.get("adopted", []), record(changed)]
        integrity.publish_pointer(folder, pointer)
    return changed


def record(changed: list[str]) -> dict[str, Any]:
    """Return who accepts which parts, and when."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"when": when, "who": user, "version": version(), "parts": changed}


def _before(folder: Path) -> dict[str, Any]:
    """The pointer as it is, edited or not; empty if it is damaged or absent."""
    try:
        return files.read_json(folder / POINTER)
    except (OSError, files.IntegrityError):
        return {}


def _newest(folder: Path) -> tuple[str, int, str | None]:
    """Name, epoch and settings checksum of the checkpoint to adopt: the pointer's if it is there, else the newest."""
    from pipeline import checkpoint

    found = sorted(path.name for path in (folder / CHECKPOINTS).glob("epoch-*.pt"))
    if not found:
        raise files.IntegrityError(f"{folder} has no checkpoint in {CHECKPOINTS}/. Put one back, or train again.")
    name = Path(str(_before(folder).get("file", ""))).name
    name = name if name in found else found[-1]
    path = folder / CHECKPOINTS / name
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise files.IntegrityError(f"{path} is damaged ({error}). Put the original back, or train again.") from None
    if damaged is not None:
        raise files.IntegrityError(
            f"{path} is damaged ({damaged}: CRC-32 differs). Put the original back, or train again."
        )
    written: Mapping[str, Any] = checkpoint.read_state(path).get("written") or {}
    named = name.removeprefix("epoch-").removesuffix(".pt")
    if not named.isdigit() or written.get("epoch", int(named)) != int(named):
        raise files.IntegrityError(
            f"{path} holds epoch {written.get('epoch', 'of no number')}. Give it back its own name."
        )
    return name, int(named), written.get("settings")


def _relinked_ledger(folder: Path) -> list[dict[str, Any]] | None:
    """Records of the ledger whose checksums must be computed again; None if they hold.

    IntegrityError if it cannot be used as it is.
    """
    path = folder / ledger.NAME
    try:
        ledger.read(folder)
        return None
    except files.IntegrityError as error:
        records = _records(path)
        if records is None:
            raise error from None
    ledger.require_valid(path, records)
    return records


def _records(path: Path) -> list[Any] | None:
    """Return the records of a journal, whatever their checksums; None if a line is not JSON."""
    try:
        lines = [files.parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError:
        return None
    return [
        {key: value for key, value in line.items() if key != journal.CHAIN} if isinstance(line, dict) else line
        for line in lines
    ]


def _require_usable(run: Any, state: dict[str, Any]) -> None:
    """Raise IntegrityError if the weights do not fit the settings, or are not finite."""
    from pipeline import checkpoint, network

    weights = checkpoint.Checkpoint(0, state).weights
    checkpoint.require_valid(weights, run.folder)
    if not (run.folder / integrity.METADATA).is_file():
        return  # without the data file, nothing tells the sizes of the network
    import torch

    with torch.random.fork_rng(devices=[]):
        model = network.build(run.config, run.metadata, torch.device("cpu"))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()
        raise files.IntegrityError(
            f"{run.folder}: its weights do not fit the network of {CONFIG} ({what}). Put back either of both."
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """Entry of `python -m pipeline.adopt`; returns the exit code."""
    options = read_options(Options, "pipeline.adopt", __doc__, arguments)
    try:
        changed = adopt(options.run)
    except (ValueError, OSError, exits.Fault, KeyboardInterrupt) as error:
        return exits.report(error)
    print(f"{options.run}: {'adopted ' + ', '.join(changed) if changed else 'whole, nothing to adopt'}")
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))

"""RUN/ledger.jsonl: the record of a training, one line per epoch, on the disk before training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preprocessing import files, journal

NAME = "ledger.jsonl"
# Numbers that a line may have; those of a dotted name stand in an inner object. Shares are accuracies.
NUMBERS = ("train.loss", "seconds", "clips_per_second", "evaluation_seconds")
SHARES = ("train.top1", *(f"accuracies.{name}" for name in "ABCD"))


class RunLedger:
    """The ledger of the run folder `run`, created or resumed.

    Args:
        run: The run folder.
        epochs_done: Epochs in the checkpoint that training resumes from. After a kill the ledger may be ahead of the
            checkpoint; those epochs are trained and recorded again, so their old lines are dropped.
    """

    def __init__(self, run: Path, epochs_done: int) -> None:
        self._journal = journal.Journal(run / NAME, chain=True, remedy=_remedy(run))
        require_valid(run / NAME, self._journal.records)
        epochs = [line["epoch"] for line in self._journal.records]
        self._journal.keep(sum(epoch <= epochs_done for epoch in epochs))

    def write(self, record: dict[str, Any]) -> None:
        """Append the figures of one epoch."""
        self._journal.append(record)


def read(run: Path, first: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger, one per epoch, without a last line that a kill tore.

    Args:
        run: The run folder.
        first: Epoch of the first line; None: any.

    Raises:
        IntegrityError: A line was edited, epochs are missing, or a value has a wrong type.
    """
    records = [line.record for line in _lines(run)]
    require_valid(run / NAME, records, first)
    return records


def chained(run: Path) -> bool:
    """Return whether lines of the ledger hold checksums, as those of folders with checksums do."""
    return any(line.chained for line in _lines(run))


def state(run: Path, epoch: int) -> dict[str, Any]:
    """Return `first` and `last` epoch and the checksum of the last line, for the pointer to the checkpoint of `epoch`.

    Without any line the ledger begins after that epoch.
    """
    lines = _lines(run)
    if not lines:
        return {"first": epoch + 1, "last": epoch, "chain": journal.START}
    return {"first": lines[0].record["epoch"], "last": lines[-1].record["epoch"], "chain": lines[-1].chain}


def require_state(run: Path, expected: dict[str, Any], finished: bool, remedy: str) -> None:
    """Raise IntegrityError if the ledger is not the one of a checkpoint.

    Args:
        run: The run folder.
        expected: What `state` returned when the checkpoint was made.
        finished: No line may follow; of a run that was killed, one may.
        remedy: The message's last sentence.
    """
    path = run / NAME
    lines = _lines(run)
    require_valid(path, [line.record for line in lines], expected["first"])
    count = expected["last"] - expected["first"] + 1
    if len(lines) < count:
        found = f"has {len(lines)} of {count} lines" if path.is_file() else "is missing"
        raise files.IntegrityError(f"{path} {found}. {remedy}")
    if (lines[count - 1].chain if count else journal.START) != expected["chain"]:
        raise files.IntegrityError(f"{path} is the ledger of another training, or was edited. {remedy}")
    if len(lines) > count + (not finished):
        raise files.IntegrityError(f"{path} has {len(lines)} lines, {len(lines) - count} too many. {remedy}")


def _lines(run: Path) -> list[journal.Line]:
    return journal.read_lines(run / NAME, remedy=_remedy(run))


def _remedy(run: Path) -> str:
    return f"Restore the file from a copy, or accept it as it is: skelnorm adopt {run}"


def require_valid(path: Path, records: list[Any], first: int | None = None) -> None:
    """Raise IntegrityError where epochs are missing or a value has a wrong type."""
    for number, record in enumerate(records, 1):
        if first is None and isinstance(record, dict):
            first = record.get("epoch")
        fault = _fault(record, (first if type(first) is int else 1) + number - 1)
        if fault:
            raise files.IntegrityError(f"{path}: line {number} {fault}. {_remedy(path.parent)}")


def _fault(record: Any, epoch: int) -> str:
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        return "is not the record of an epoch"
    if record["epoch"] != epoch:
        return f"has epoch {record['epoch']}: must be {epoch}"
    for name in (*NUMBERS, *SHARES):
        outer, _, inner = name.rpartition(".")
        holder = record.get(outer, {}) if outer else record
        if not isinstance(holder, dict):
            return f"has {outer} {holder!r}: must be an object"
        value = holder.get(inner)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"has {name} {value!r}: must be a number"
        if name in SHARES and not 0 <= value <= 1:
            return f"has {name} {value}: must be between 0 and 1"
    return ""

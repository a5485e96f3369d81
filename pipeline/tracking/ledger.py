"""RUN/ledger.jsonl: the record of a training, one line per epoch, on the disk before training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preprocessing import journal

NAME = "ledger.jsonl"


class RunLedger:
    """The ledger of the run folder `run`, created or resumed.

    Args:
        run: The run folder.
        epochs_done: Epochs in the checkpoint that training resumes from. After a kill the ledger may be ahead of the
            checkpoint; those epochs are trained and recorded again, so their old lines are dropped.
    """

    def __init__(self, run: Path, epochs_done: int) -> None:
        self._journal = journal.Journal(run / NAME)
        epochs = [line["epoch"] for line in self._journal.records]
        self._journal.keep(sum(epoch <= epochs_done for epoch in epochs))

    def write(self, record: dict[str, Any]) -> None:
        """Append the figures of one epoch."""
        self._journal.append(record)


def read(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's ledger, one per epoch, without a last line that a kill tore."""
    return journal.read(run / NAME)

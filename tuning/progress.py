"""What the driver shows and sends while trials run: a progress bar, a line a finished trial, one W&B run a trial.

W&B is fed here and not in the trials: a trial that the scheduler stops would lose what it has not flushed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.tracking.metric_names import named
from pipeline.tracking.report import Tracker, start_wandb
from tuning.ledger import Ledger, Outcome, Task


class Board:
    """The progress bar of `total` trials, `done` of them earlier, and their W&B runs in `study`."""

    def __init__(self, study: Path, title: str, total: int, done: int, wandb: str) -> None:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self.bar = self.progress.add_task("", total=total, completed=done)
        self.study, self.wandb, self.best = study, wandb, 0.0
        self.runs: dict[str, Tracker] = {}

    def __enter__(self) -> Board:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.runs.values():
            tracker.finish({})
        self.progress.stop()

    def measured(self, task: Task, record: dict[str, Any]) -> None:
        """An epoch of a trial."""
        if task.name not in self.runs:
            config = task.settings | {"train.seed": task.seed, "arm": task.arm}
            self.runs[task.name] = start_wandb(
                self.study, task.name, config, self.wandb, "trial", self.study.resolve().name
            )
        self.runs[task.name].log(record)

    def ended(self, outcome: Outcome) -> None:
        """The end of a trial."""
        last = outcome.last
        self.best = max(self.best, last.get("val") or 0.0)
        self.runs.pop(outcome.task.name, Tracker()).finish(named(last))
        how = f"val {100 * (last.get('val') or 0.0):5.1f} %  epoch {last['epoch']}" if last else outcome.outcome
        if outcome.outcome == "failed":
            how = f"failed ({outcome.cause})"
        line = f"{outcome.task.name}  {how}  {describe(outcome.task)}"
        self.progress.console.print(line, highlight=False, soft_wrap=True, markup=False)
        self.progress.update(self.bar, advance=1, description=f"best val {100 * self.best:.1f} %")


def describe(task: Task) -> str:
    """A task in one line."""
    if task.arm:
        return f"{task.arm}, seed {task.seed}"
    parts = []
    for name, value in task.settings.items():
        shown = f"{value:.2g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.split('.')[1]} {shown}")
    return "  ".join(parts)


class OnRecord:
    """What the sources of a search and of a study do with what they are told: to the ledger, and show it."""

    def __init__(self, ledger: Ledger, board: Board) -> None:
        self.ledger, self.board = ledger, board

    def measured(self, task: Task, figures: dict[str, Any]) -> None:
        """Show it."""
        self.board.measured(task, figures)

    def failed(self, task: Task, cause: str) -> None:
        """To the ledger: it outlives the driver."""
        self.ledger.fail(task, cause)

    def ended(self, outcome: Outcome) -> None:
        """To the ledger first."""
        self.ledger.end(outcome)
        self.board.ended(outcome)

"""Progress of a search or a study in its driver: a bar, one line per finished trial, one W&B run per trial.

One follower process sends all trials to W&B, not the trials themselves: a trial that the scheduler stops would lose the
records that it has not flushed.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.tracking.follower import Follower
from preprocessing import journal
from tuning.ledger import NAME, Outcome, Task


class ProgressReporter:
    """The progress bar and the W&B runs of the trials.

    Args:
        study: Study folder, where offline W&B runs are written.
        title: Label of the bar.
        total: Number of trials.
        done: Number of trials that ended in earlier runs of the command.
        wandb: off, offline or online.
    """

    def __init__(self, study: Path, title: str, total: int, done: int, wandb: str) -> None:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self.bar = self.progress.add_task("", total=total, completed=done)
        self.study, self.wandb, self.best = study, wandb, 0.0

    def __enter__(self) -> ProgressReporter:
        done = len(journal.read(self.study / NAME))  # an earlier command has sent these
        arguments = [str(self.study), "--done", str(done)]
        self.follower = Follower("tuning.wandb_follower", arguments, self.study, self.wandb)
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.follower.finish()

    def on_end(self, outcome: Outcome) -> None:
        """Print a line about the trial and advance the bar."""
        last = outcome.last
        self.best = max(self.best, last.get("val") or 0.0)
        result = f"val {100 * (last.get('val') or 0.0):5.1f} %  epoch {last['epoch']}" if last else outcome.outcome
        if outcome.outcome == "failed":
            result = f"failed ({outcome.cause})"
        line = f"{outcome.task.name}  {result}  {describe(outcome.task)}"
        self.progress.console.print(line, highlight=False, soft_wrap=True, markup=False)
        self.progress.update(self.bar, advance=1, description=f"best val {100 * self.best:.1f} %")


def describe(task: Task) -> str:
    """Return the arm and seed of a task, or its settings, in one line."""
    if task.arm:
        return f"{task.arm}, seed {task.seed}"
    parts = []
    for name, value in task.settings.items():
        shown = f"{value:.2g}" if isinstance(value, float) else str(value)
        parts.append(f"{name.split('.')[1]} {shown}")
    return "  ".join(parts)

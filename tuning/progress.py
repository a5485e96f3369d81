"""Progress of a search or a study in its driver: a bar, one line per finished trial, one W&B run per trial.

The driver feeds W&B, not the trials: a trial that the scheduler stops would lose the records that it has not flushed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.tracking.metric_names import named
from pipeline.tracking.report import Tracker, start_wandb
from tuning.ledger import Outcome, Task


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
        self.runs: dict[str, Tracker] = {}

    def __enter__(self) -> ProgressReporter:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.runs.values():
            tracker.finish({})
        self.progress.stop()

    def on_epoch(self, task: Task, metrics: dict[str, Any]) -> None:
        """Send the metrics of an epoch to the trial's W&B run."""
        if task.name not in self.runs:
            config = task.settings | {"train.seed": task.seed, "arm": task.arm}
            self.runs[task.name] = start_wandb(
                self.study, task.name, config, self.wandb, "trial", self.study.resolve().name
            )
        self.runs[task.name].log(metrics)

    def on_end(self, outcome: Outcome) -> None:
        """Print a line about the trial, advance the bar and finish its W&B run."""
        last = outcome.last
        self.best = max(self.best, last.get("val") or 0.0)
        self.runs.pop(outcome.task.name, Tracker()).finish(named(last))
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

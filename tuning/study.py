"""Compare arms over seeds: each arm is trained with each seed and compared with the baseline, paired by seed.

    python -m tuning.study --data ntu60.h5 --out studies/question --arms question --seeds 5
    python -m tuning.study --data ntu60.h5 --out studies/mine --arms mine.toml --seeds 10 --epochs 60

Arms: question (the question's network, the answers it received and others), norms (every kind), persons (which bodies
share statistics), or a TOML file (format: tuning/arms.py). The same command resumes a study, also after a kill; with
more --seeds it adds the missing ones. Each trial reads the test split once, at its end; nothing is selected by it.
Writes STUDY/results.json, results.csv and report.html; STUDY/ledger.jsonl is the record.
Exit codes: 0 ok, 2 wrong settings, 3 the baseline has no finished trial, 6 damaged file, 130 interrupted, 143
terminated.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from pipeline.config import TrainConfig
from pipeline.settings import Range
from preprocessing import exits, files, lifetime, startup
from tuning.engine import Resources
from tuning.experiment import INTERRUPTED, AtLeast1, Experiment, parse, report_resumed, study_ledger
from tuning.ledger import Outcome, Task
from tuning.sources import TaskList
from tuning.trial_spec import TrialSpec

if TYPE_CHECKING:
    from tuning.arms import Arms

WIDTH = 160  # characters of the table where stdout is not a terminal


@dataclass(frozen=True, kw_only=True)
class Study(Experiment):
    """Settings of a study."""

    arms: str
    """question, norms, persons, or a TOML file."""
    epochs: AtLeast1 = TrainConfig.epochs
    """Epochs per trial."""
    seeds: AtLeast1 = 5
    """Number of seeds, 0 to N - 1; each arm is trained with each."""
    eval_every: AtLeast1 = TrainConfig.eval_every
    """Epochs between two points of a learning curve."""
    gpus_per_rank: Annotated[float, Range(ge=0)] = 0.0
    """GPUs per rank (a fraction lets trials share one)."""
    at_once: Annotated[int, Range(ge=0)] = 0
    """Largest number of trials that run at once; 0 means as many as fit."""

    def spec(self, task: Task) -> TrialSpec:
        """Return the specification of a training that reads the test split once, at its end."""
        return self.make_spec(task, self.eval_every, read_test=True)

    def resources(self) -> Resources:
        """Return what each trial gets."""
        return Resources(self.cpus_per_rank, self.gpus_per_rank, self.limit_seconds, self.at_once)


class StudyResult(NamedTuple):
    """Result of a study."""

    arms: Arms
    outcomes: list[Outcome]
    """Trials that have ended, seed by seed."""
    document: dict[str, Any]
    """Content of results.json without the command (tuning.results.study_document)."""


def list_tasks(arms: Arms, seeds: int) -> list[Task]:
    """Return all trainings, seed by seed: whenever a study stops, most arms have pairs.

    Raises:
        ValueError: Two arms would share a folder.
    """
    tasks = [
        Task(f"{_slug(name)}-s{seed}", arm.settings, seed, name, arm.ranks, arms.re_evaluations_of(name))
        for seed in range(seeds)
        for name, arm in arms.trained().items()
    ]
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError("Two arms have names that differ by case or punctuation only: rename one.")
    return tasks


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()


def run_study(settings: Study) -> StudyResult:
    """Run all trials that have not ended, then write results.json, results.csv and report.html.

    Args:
        settings: The study; `settings.out` is created, or resumed.

    Raises:
        ValueError: The arms or the data file are unfit, or `settings.out` holds another study.
        EngineError: Ray cannot be used.
        LockedError: Another process is running this study.
    """
    from tuning import page, results  # loads scipy
    from tuning.arms import read_arms

    with files.lock_folder(settings.out):
        arms = read_arms(settings.arms)
        tasks = list_tasks(arms, settings.seeds)
        identity = {"epochs": settings.epochs, "eval_every": settings.eval_every, "frames": settings.frames}
        ledger = study_ledger(settings, "study", identity | arms.identity())
        left = [task for task in tasks if task.name not in ledger.ended]
        done = len(tasks) - len(left)
        report_resumed(done, len(ledger.under_way))
        if left:
            with settings.reporter(len(tasks), done) as reporter:
                settings.run(TaskList(left, settings.spec, ledger, reporter))
        outcomes = [ledger.ended[task.name] for task in tasks if task.name in ledger.ended]
        document = results.study_document(arms, outcomes)
        results.write(settings.out, {"command": settings.recorded_command, **document})
        page.write_study(settings.out, settings.command, document, outcomes)
    return StudyResult(arms, outcomes, document)


def show(arms: list[dict[str, Any]], eval_split: str, console: Console) -> None:
    """Print the leaderboard."""
    from tuning.results import plus_minus

    table = Table("arm", "n", "train", "val", eval_split, "effect", "95 %", "p (Holm)", "A", "B", "C", "D")
    for row in arms:
        if not row["n"]:
            table.add_row(row["arm"], "0")
            continue
        effect, interval = row["effect"], row["interval"]
        table.add_row(
            row["arm"],
            str(row["n"]),
            *(plus_minus(row[name], row[f"{name}_std"]) for name in ("train", "val", eval_split)),
            "" if effect is None else f"{100 * effect:+.1f}",
            "" if interval is None else f"{100 * interval[0]:+.1f} .. {100 * interval[1]:+.1f}",
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            *("" if row[name] is None else f"{100 * row[name]:.1f}" for name in "ABCD"),
        )
    console.print(table)


def main() -> int:
    """Run `python -m tuning.study`; return the exit code."""
    with lifetime.interruptible():
        try:
            settings = parse(Study, __doc__)
            arms, _, document = run_study(settings)
        except BaseException as error:
            if not exits.expected(error):
                raise
            return exits.report(error, INTERRUPTED)
    show(document["arms"], document["judged"], Console(width=None if sys.stdout.isatty() else WIDTH))
    print(f"{settings.out / 'results.json'}  {settings.out / 'report.html'}")
    baseline = next(row for row in document["arms"] if row["arm"] == arms.baseline)
    return 0 if baseline["n"] else exits.WORKER


if __name__ == "__main__":
    # Ray pickles classes by their module's name, which must be tuning.study, not __main__.
    from tuning.study import main as imported_main

    sys.exit(startup.run(imported_main))

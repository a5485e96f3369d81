"""Search normalization settings: Optuna's TPE draws them, Ray Tune runs them, ASHA stops bad trials early.

    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 60
    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 600 --budget 8h --gpus-per-trial 0.25
    python -m tuning.search --data ntu60.h5 --out studies/ddp --trials 20 --ranks-per-trial 2
    python -m tuning.search --data /nfs/ntu.h5 --out /nfs/ddp --ranks-per-trial 16 --nodes-per-trial 2 --address auto
    python -m tuning.search --data sbu.h5 --out studies/sbu --preset sbu --space mine.toml --trials 30 --confirm 3
    ray job submit --working-dir . -- python -m tuning.search --data /data/ntu60.h5 --out /data/norms --address auto

The same command resumes a search, also after a kill: finished trials are not repeated, those that were under way
continue from their checkpoint. Trials are ranked by accuracy on held-out training subjects; the test split is not read.
Writes STUDY/results.json, results.csv, report.html and best.toml, which pipeline.train takes as a preset;
STUDY/ledger.jsonl is the record. The best of many trials owes some of its accuracy to chance: --confirm 3 trains the
best three again with three new seeds each, and ranks them by these.
Exit codes: 0 ok, 2 wrong settings, 3 every trial failed, 6 damaged file, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from preprocessing import startup

if __name__ == "__main__":
    startup.early(lambda: None)  # from here on Ctrl-C is one line

from pipeline.config import from_dict, preset
from pipeline.data.config import InputConfig
from pipeline.models import MODELS
from pipeline.settings import Choice, Range
from pipeline.tracking.metric_names import flat
from preprocessing import exits, files, lifetime
from preprocessing.arguments import suggest
from tuning.best import BEST_FILE, confirm, write_best
from tuning.engine import Asha, Resources, connected
from tuning.experiment import (
    INTERRUPTED,
    AtLeast1,
    Experiment,
    duration_seconds,
    parse,
    report_resumed,
    study_ledger,
)
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter, describe
from tuning.space import SPACE, Axis, defaults, describe_axis, nested, read_space
from tuning.trial_spec import TrialSpec

if TYPE_CHECKING:
    from tuning.tpe import TpeSource

BEST = 5  # trials that are printed at the end
OWN = ("data", "out", "init", "nproc", "wandb", "fast_start")  # in a TOML file of a training; a trial has its own


@dataclass(frozen=True, kw_only=True)
class Search(Experiment):
    """Settings of a search."""

    epochs: AtLeast1 = 20
    """Epochs of a trial that is not stopped early."""
    frames: Annotated[int, Range(ge=2)] = 0
    """Frames T that clips are resampled to; 0: those of the preset."""
    trials: AtLeast1 = 20
    """Number of settings tried, those of earlier runs of the command included."""
    budget: str = ""
    """Time after which no further trial starts (90s, 30m, 2h); trials that are under way finish."""
    grace: AtLeast1 = 3
    """Epochs that every trial gets before ASHA may stop it."""
    seed: int = 0
    """Seed of the draws and of every training."""
    preset: str = "default"
    """Preset, or TOML file, that all trials start from; --frames and --epochs win over it."""
    model: Annotated[str, Choice(("preset", *MODELS))] = "preset"
    """Network of all trials; preset: that of the preset."""
    space: Path | None = None
    """TOML file with the settings to search (format: tuning/space.py); none: normalization and what depends on it."""
    confirm: Annotated[int, Range(ge=0)] = 0
    """Train so many of the best settings again, each with three new seeds, and rank them by these; 0: none."""
    gpus_per_trial: Annotated[float, Range(ge=0)] = 0.0
    """GPUs per trial (a fraction lets trials share one); with several ranks, at least 1 per rank."""
    ranks_per_trial: AtLeast1 = 1
    """Ranks per trial, joined by DistributedDataParallel; on one node, or divided among --nodes-per-trial."""
    trial_memory: Annotated[float, Range(ge=0)] = 0.0
    """Gigabytes that each rank may allocate before the trial counts as failed; 0 means no limit."""

    def __post_init__(self) -> None:
        if self.frames == 0:
            object.__setattr__(self, "frames", self.base.get("input.frames", InputConfig.frames))
        super().__post_init__()
        self.check_nodes(self.ranks_per_trial, "--ranks-per-trial")
        if self.ranks_per_trial > 1 and 0 < self.gpus_per_trial < self.ranks_per_trial:
            raise ValueError(
                f"--gpus-per-trial {self.gpus_per_trial} is less than one per rank (--ranks-per-trial "
                f"{self.ranks_per_trial}): ranks cannot share a GPU."
            )
        duration_seconds(self.budget, "--budget")
        _ = self.base, self.axes  # a mistake in a file is reported before anything starts

    @cached_property
    def base(self) -> dict[str, Any]:
        """Flat settings of the preset and the model, read once: a job's folder may be replaced under it."""
        values = {name: value for name, value in flat(preset(self.preset), ".").items() if name not in OWN}
        if self.model != "preset":
            values["model.name"] = self.model
        from_dict(nested(values | {"data": "a.h5", "out": "run"}))
        return values

    @cached_property
    def axes(self) -> Mapping[str, Axis]:
        """Settings that are searched, each with its axis."""
        return SPACE if self.space is None else read_space(self.space)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that a resumed search must share; a default adds nothing to what older versions recorded."""
        identity: dict[str, Any] = {"seed": self.seed, "epochs": self.epochs, "frames": self.frames}
        if base := self.base:
            identity["base"] = base
        if self.space is not None:
            identity["space"] = {name: describe_axis(axis) for name, axis in self.axes.items()}
        return identity

    def spec(self, task: Task) -> TrialSpec:
        """Return the specification of a training that never reads the test split and is evaluated each epoch."""
        return self.make_spec(task, eval_every=1, read_test=False, memory=self.trial_memory)

    def resources(self) -> Resources:
        """Return what each trial gets; `gpus_per_trial` is divided among its ranks."""
        return Resources(
            self.cpus_per_rank,
            self.gpus_per_trial / self.ranks_per_trial,
            self.limit_seconds,
            nodes=self.nodes_per_trial,
        )


def run_search(settings: Search) -> list[Outcome]:
    """Run all trials that have not ended, then write results.json, results.csv and report.html.

    Args:
        settings: The search; `settings.out` is created, or resumed.

    Returns:
        The outcomes of all trials, in the order in which they ended.

    Raises:
        ValueError: The data file is unfit, or `settings.out` holds another study.
        EngineError: Ray cannot be used.
        LockedError: Another process is running this study.
    """
    from tuning import page, results  # loads optuna and scipy

    with files.lock_folder(settings.out):
        ledger = study_ledger(settings, "search", settings.identity)
        done = len(ledger.ended)
        report_resumed(done, len(ledger.under_way))
        left, confirmed = done < settings.trials or bool(ledger.under_way), list[dict[str, Any]]()
        with connected(settings.address) if left or settings.confirm else nullcontext():
            if left:
                with settings.reporter(settings.trials, done) as reporter:
                    settings.run(tpe_source(settings, ledger, reporter), Asha(settings.grace, settings.epochs))
            outcomes = list(ledger.ended.values())
            document = {"command": settings.recorded_command, "trials": results.search_rows(outcomes)}
            results.write(settings.out, document)
            if settings.confirm:
                confirmed = confirm(settings, outcomes)
                results.write(settings.out, document | {"confirmed": confirmed})
        write_best(settings, outcomes, confirmed)
        page.write_search(settings.out, settings.command, outcomes)
    return outcomes


def tpe_source(settings: Search, ledger: StudyLedger, reporter: ProgressReporter) -> TpeSource:
    """Return the source of a search's tasks."""
    from tuning.tpe import TpeSource

    budget = duration_seconds(settings.budget, "--budget")
    return TpeSource(
        settings.trials,
        settings.seed,
        settings.ranks_per_trial,
        budget,
        settings.spec,
        ledger,
        reporter,
        settings.axes,
        defaults() | settings.base,
    )


def main() -> int:
    """Run `python -m tuning.search`; return the exit code."""
    with lifetime.interruptible():
        try:
            settings = parse(Search, __doc__)
            outcomes = run_search(settings)
        except BaseException as error:
            return exits.report(error, INTERRUPTED)
    from tuning import results

    finished = [outcome for outcome in results.best_first(outcomes) if results.is_ranked(outcome)]
    print(f"{len(finished)} of {len(outcomes)} trials finished; {settings.out / 'results.json'}")
    for outcome in finished[:BEST]:
        print(f"  val {100 * outcome.last['val']:.1f} %  {describe(outcome.task)}")
    for row in results.read_results(settings.out).get("confirmed", []):
        print(f"confirmed: {row['trial']}  val {results.plus_minus(row['val'], row['val_std'])} %, {row['n']} seeds")
    if finished:
        suggest("pipeline.train", settings.out / BEST_FILE, "--out", "runs/best")
    return 0 if finished else exits.WORKER


if __name__ == "__main__":
    # Ray pickles classes by their module's name, which must be tuning.search, not __main__.
    from tuning.search import main as imported_main

    sys.exit(startup.run(imported_main))

"""Search normalization settings: Optuna's TPE draws them, Ray Tune runs them, ASHA stops bad trials early.

    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 60
    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 600 --budget 8h --gpus-per-trial 0.25
    python -m tuning.search --data ntu60.h5 --out studies/ddp --trials 20 --ranks-per-trial 2
    ray job submit --working-dir . -- python -m tuning.search --data /data/ntu60.h5 --out /data/norms --address auto

The same command resumes a search, also after a kill: finished trials are not repeated, those that were under way
continue from their checkpoint. Trials are ranked by accuracy on held-out training subjects; the test split is not read.
Writes STUDY/results.json, results.csv and report.html; STUDY/ledger.jsonl is the record.
Exit codes: 0 ok, 2 wrong settings, 3 every trial failed, 6 damaged file, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline.settings import Range
from preprocessing import exits, files, lifetime, startup
from tuning.engine import Asha, Resources
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
from tuning.trial_spec import TrialSpec

if TYPE_CHECKING:
    from tuning.tpe import TpeSource

BEST = 5  # trials that are printed at the end


@dataclass(frozen=True, kw_only=True)
class Search(Experiment):
    """Settings of a search."""

    epochs: AtLeast1 = 20
    """Epochs of a trial that is not stopped early."""
    trials: AtLeast1 = 20
    """Number of settings tried, those of earlier runs of the command included."""
    budget: str = ""
    """Time after which no further trial starts (90s, 30m, 2h); trials that are under way finish."""
    grace: AtLeast1 = 3
    """Epochs that every trial gets before ASHA may stop it."""
    seed: int = 0
    """Seed of the draws and of every training."""
    gpus_per_trial: Annotated[float, Range(ge=0)] = 0.0
    """GPUs per trial (a fraction lets trials share one); with several ranks, at least 1 per rank."""
    ranks_per_trial: AtLeast1 = 1
    """Ranks per trial, on one node, joined by DistributedDataParallel."""
    trial_memory: Annotated[float, Range(ge=0)] = 0.0
    """Gigabytes that each rank may allocate before the trial counts as failed; 0 means no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks_per_trial > 1 and 0 < self.gpus_per_trial < self.ranks_per_trial:
            raise ValueError(
                f"--gpus-per-trial {self.gpus_per_trial} is less than one per rank (--ranks-per-trial "
                f"{self.ranks_per_trial}): ranks cannot share a GPU."
            )
        duration_seconds(self.budget, "--budget")

    def spec(self, task: Task) -> TrialSpec:
        """Return the specification of a training that never reads the test split and is evaluated each epoch."""
        return self.make_spec(task, eval_every=1, read_test=False, memory=self.trial_memory)

    def resources(self) -> Resources:
        """Return what each trial gets; `gpus_per_trial` is divided among its ranks."""
        return Resources(self.cpus_per_rank, self.gpus_per_trial / self.ranks_per_trial, self.limit_seconds)


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
        identity = {"seed": settings.seed, "epochs": settings.epochs, "frames": settings.frames}
        ledger = study_ledger(settings, "search", identity)
        done = len(ledger.ended)
        report_resumed(done, len(ledger.under_way))
        if done < settings.trials or ledger.under_way:
            with settings.reporter(settings.trials, done) as reporter:
                settings.run(tpe_source(settings, ledger, reporter), Asha(settings.grace, settings.epochs))
        outcomes = list(ledger.ended.values())
        results.write(settings.out, {"command": settings.recorded_command, "trials": results.search_rows(outcomes)})
        page.write_search(settings.out, settings.command, outcomes)
    return outcomes


def tpe_source(settings: Search, ledger: StudyLedger, reporter: ProgressReporter) -> TpeSource:
    """Return the source of a search's tasks."""
    from tuning.tpe import TpeSource

    budget = duration_seconds(settings.budget, "--budget")
    return TpeSource(settings.trials, settings.seed, settings.ranks_per_trial, budget, settings.spec, ledger, reporter)


def main() -> int:
    """Run `python -m tuning.search`; return the exit code."""
    with lifetime.interruptible():
        try:
            settings = parse(Search, __doc__)
            outcomes = run_search(settings)
        except BaseException as error:
            if not exits.expected(error):
                raise
            return exits.report(error, INTERRUPTED)
    from tuning import results

    finished = [outcome for outcome in results.best_first(outcomes) if results.is_ranked(outcome)]
    print(f"{len(finished)} of {len(outcomes)} trials finished; {settings.out / 'results.json'}")
    for outcome in finished[:BEST]:
        print(f"  val {100 * outcome.last['val']:.1f} %  {describe(outcome.task)}")
    return 0 if finished else exits.WORKER


if __name__ == "__main__":
    # Ray pickles classes by their module's name, which must be tuning.search, not __main__.
    from tuning.search import main as imported_main

    sys.exit(startup.run(imported_main))

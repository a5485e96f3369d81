"""Search normalization settings: Optuna's TPE draws them, Ray Tune runs them, ASHA stops the hopeless ones early.

    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 60
    python -m tuning.search --data ntu60.h5 --out studies/norms --trials 600 --budget 8h --gpus-per-trial 0.25
    python -m tuning.search --data ntu60.h5 --out studies/ddp --trials 20 --workers-per-trial 2
    ray job submit --working-dir . -- python -m tuning.search --data /data/ntu60.h5 --out /data/norms --address auto

The same command again goes on where the last one stopped, also after a kill: finished trials are not repeated, those
that were under way resume from their checkpoint. Judged by accuracy on held-out training subjects; the test split is
not read. Leaves STUDY/results.json, results.csv, report.html; STUDY/ledger.jsonl is the record.
Exit codes: 0 ok, 2 wrong settings, 3 every trial failed, 6 damaged file, 130 interrupted.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import tyro

from pipeline.data.clips import InputConfig
from preprocessing import exits, files
from preprocessing.hdf5 import open_file
from tuning import page, results
from tuning.engine import EngineError, Halving, Resources, run_all
from tuning.ledger import Ledger, Outcome, Task
from tuning.progress import Board, OnRecord, describe
from tuning.space import SPACE, draw

STARTUP = 10  # trials that are drawn at random before TPE has anything to go by


@dataclass(frozen=True)
class Search:
    """Settings of a search."""

    data: Path
    """HDF5 file made by preprocessing.build; on a cluster every node sees it under this path."""
    out: Path
    """Study folder; on a cluster shared by all nodes. The same command again goes on."""
    trials: int = 20
    """Number of settings tried, those of earlier attempts included."""
    budget: str = ""
    """Time after which no further trial is begun (90s, 30m, 2h); those under way get to their end."""
    epochs: int = 20
    """Epochs of a trial that is not stopped early."""
    grace: int = 3
    """Epochs that every trial gets before ASHA may stop it."""
    seed: int = 0
    """Of the settings drawn, and of every training."""
    frames: int = InputConfig.frames
    """Frames T that clips are resampled to."""
    cpus_per_worker: int = 1
    """CPU cores a worker; as many trials run at once as fit the machine."""
    gpus_per_trial: float = 0.0
    """GPUs a trial (a fraction lets trials share one); with several workers, 1 or more for each."""
    workers_per_trial: int = 1
    """Ranks a trial, on one node, joined by DistributedDataParallel."""
    trial_limit: str = ""
    """Time that a trial may take before it counts as failed (90s, 30m, 2h)."""
    trial_memory: float = 0.0
    """Gigabytes that a worker may hold before it counts as failed; 0: no limit."""
    keep: bool = False
    """Keep the checkpoints of finished trials, for pipeline.doctor."""
    wandb: Literal["off", "offline", "online"] = "offline"
    """W&B through the driver: one run a trial."""
    address: str | None = None
    """An existing Ray cluster (auto: the one this machine belongs to); empty: this machine alone, on loopback."""

    def __post_init__(self) -> None:
        for name in ("trials", "epochs", "grace", "cpus_per_worker", "workers_per_trial"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        for name in ("gpus_per_trial", "trial_memory"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 0 or more")
        if self.workers_per_trial > 1 and 0 < self.gpus_per_trial < self.workers_per_trial:
            raise ValueError(
                f"--gpus-per-trial {self.gpus_per_trial} is less than one for each of --workers-per-trial "
                f"{self.workers_per_trial}; ranks cannot share a GPU"
            )
        for name in ("budget", "trial_limit"):
            seconds(getattr(self, name), f"--{name.replace('_', '-')}")
        if not self.data.is_file():
            raise ValueError(f"{self.data} does not exist; build it with python -m preprocessing.build")


def seconds(text: str, name: str) -> float | None:
    """`90s`, `30m`, `2h`, `1.5h` in seconds; None for the empty text."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text)
    if not found or float(found[1]) == 0:
        raise ValueError(f"{name} {text!r} is no time; write it as 90s, 30m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


class Tpe(OnRecord):
    """The source of a search's tasks: first those that a killed driver left under way, then what TPE draws.

    TPE: Bergstra et al. 2011, with all settings of a branch of the conditional space together (Falkner et al. 2018,
    arXiv 1807.01774) and trials under way counted as bad, so that no two workers try the same.
    """

    def __init__(self, settings: Search, ledger: Ledger, board: Board) -> None:
        super().__init__(ledger, board)
        self.settings = settings
        budget = seconds(settings.budget, "--budget")
        self.deadline = None if budget is None else time.monotonic() + budget
        self.left_over = deque(ledger.under_way.values())
        self.drawn = len(ledger.ended) + len(ledger.under_way)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # group, constant_liar
        # Drawn anew after a resume: the seed must not begin with the settings that it began with before.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True,
            seed=settings.seed * 1_000_003 + self.drawn,
        )  # fmt: skip
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[str, optuna.Trial] = {}
        for outcome in ledger.ended.values():
            self._ask(outcome.task)
            self._tell(outcome)

    def next(self) -> Task | None:
        """A task, unless all have been drawn or time is up."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            return None
        if self.left_over:
            task = self.left_over.popleft()
            self._ask(task)
            return task
        if self.drawn >= self.settings.trials:
            return None
        trial = self.study.ask()
        task = Task(f"{self.drawn:04d}", draw(trial), self.settings.seed, ranks=self.settings.workers_per_trial)
        self.asked[task.name] = trial
        self.drawn += 1
        self.ledger.begin(task)
        return task

    def order(self, task: Task) -> dict[str, Any]:
        """A training without the test split, evaluated each epoch."""
        return order(task, self.settings, {"train.eval_every": 1}, test=False)

    def ended(self, outcome: Outcome) -> None:
        """On record first; then TPE learns from it."""
        super().ended(outcome)
        self._tell(outcome)

    def _ask(self, task: Task) -> None:
        """Settings that are known already, as a trial of Optuna's."""
        self.study.enqueue_trial(task.settings)
        trial = self.study.ask()
        draw(trial)
        self.asked[task.name] = trial

    def _tell(self, outcome: Outcome) -> None:
        trial = self.asked.pop(outcome.task.name)
        if outcome.outcome == "failed" or not outcome.curve:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for figures in outcome.curve:
            trial.report(figures["val"], int(figures["epoch"]))
        if outcome.outcome == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, outcome.last["val"])


def order(task: Task, settings: Any, more: dict[str, Any], test: bool) -> dict[str, Any]:
    """What tuning.trial needs to know of a task of a search or a study."""
    fixed = {
        "data": str(settings.data.resolve()),
        "fast_start": True,  # the driver has checked the file
        "input.frames": settings.frames,
        "train.epochs": settings.epochs,
        "train.self_test": False,
        "train.seed": task.seed,
        "nproc": task.ranks,
    }
    values = fixed | more | task.settings
    return {"settings": values, "test": test, "variants": list(task.variants), "keep": settings.keep}


def checked(data: Path, protocol: str = "") -> str:
    """The data file's content hash. A damaged file, or one without held-out clips, is named here, once."""
    file = open_file(data)
    name = protocol or file.default_protocol
    if name not in file.splits or not len(file.splits[name].get("val", [])):
        raise ValueError(f"{data}: protocol {name!r} holds out no val clips, which choices are made on")
    return file.content_sha256


def search(settings: Search) -> list[Outcome]:
    """Run all trials that are not done yet; return all outcomes."""
    same = {"seed": settings.seed, "epochs": settings.epochs, "frames": settings.frames}
    ledger = Ledger(settings.out, {"kind": "search", "data_sha256": checked(settings.data), **same})
    resources = Resources(
        settings.cpus_per_worker,
        settings.gpus_per_trial / settings.workers_per_trial,
        seconds(settings.trial_limit, "--trial-limit"),
        settings.trial_memory,
    )
    done = len(ledger.ended)
    if done or ledger.under_way:
        print(f"resumed: {done} trials are done, {len(ledger.under_way)} were under way", file=sys.stderr)
    if done < settings.trials or ledger.under_way:
        with Board(settings.out, "search", settings.trials, done, settings.wandb) as board:
            source = Tpe(settings, ledger, board)
            halving = Halving(settings.grace, settings.epochs)
            run_all(source, settings.out / "trials", resources, settings.address, halving)
    return list(ledger.ended.values())


def main() -> int:
    """Entry of `python -m tuning.search`; returns the exit code."""
    try:
        settings = tyro.cli(Search, prog="python -m tuning.search", description=__doc__)
        with files.lock(settings.out / "lock"):
            outcomes = search(settings)
            rows = results.order([results.search_row(outcome, tuple(SPACE)) for outcome in outcomes])
            command = {key: str(value) for key, value in asdict(settings).items()}
            results.write(settings.out, {"command": command, "trials": rows})
            page.write_search(settings.out, command, outcomes)
    except (ValueError, OSError, EngineError, files.LockedError, KeyboardInterrupt) as error:
        return exits.report(error, "interrupted; the same command goes on")
    finished = [row for row in rows if row["val"] is not None and row["outcome"] != "failed"]
    print(f"{len(finished)} of {len(rows)} trials finished; {settings.out / 'results.json'}")
    best = {outcome.task.name: outcome for outcome in outcomes}
    for row in finished[:5]:
        print(f"  val {100 * row['val']:.1f} %  {describe(best[row['trial']].task)}")
    return 0 if finished else exits.WORKER


if __name__ == "__main__":
    # Ray sends classes by name: they must be found in tuning.search, not in __main__.
    from tuning.search import main as imported_main

    sys.exit(imported_main())

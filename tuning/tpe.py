"""TpeSource: the tasks of a search, drawn by Optuna's TPE, which learns from the ledger after a restart."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

import optuna

from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.sources import MakeSpec, RecordedSource
from tuning.space import SPACE, Axis, Drawn, draw

STARTUP = 10  # trials drawn at random before TPE starts to model


class TpeSource(RecordedSource):
    """Source of a search: first the tasks that a killed driver left under way, then new draws.

    TPE: Bergstra et al. 2011, all settings of a branch of the conditional space together (Falkner et al. 2018,
    arXiv 1807.01774). Running trials count as bad, so that two workers do not try the same settings.

    Args:
        trials: Number of tasks, those of earlier runs of the command included.
        seed: Seed of the draws and of every training.
        ranks: Ranks per trial.
        budget: Seconds in which tasks may start; None means no limit.
        make_spec: Returns the full specification of a task.
        ledger: The study's record.
        reporter: Progress bar and W&B runs.
        space: What is drawn.
        base: Flat settings of all trials, which conditions read.
    """

    def __init__(
        self,
        trials: int,
        seed: int,
        ranks: int,
        budget: float | None,
        make_spec: MakeSpec,
        ledger: StudyLedger,
        reporter: ProgressReporter,
        space: Mapping[str, Axis] = SPACE,
        base: Drawn = MappingProxyType({}),
    ) -> None:
        super().__init__(make_spec, ledger, reporter)
        self.space, self.base = space, base
        self.trials, self.seed, self.ranks = trials, seed, ranks
        self.deadline = None if budget is None else time.monotonic() + budget
        self.left_over = deque(ledger.under_way.values())
        self.drawn = len(ledger.ended) + len(ledger.under_way)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # group, constant_liar
        # The seed depends on the number drawn: after a restart the draws must not repeat from the first one on.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True,
            seed=seed * 1_000_003 + self.drawn,
        )  # fmt: skip
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[str, optuna.Trial] = {}
        for outcome in ledger.ended.values():
            self._ask(outcome.task)
            self._tell(outcome)

    def next(self) -> Task | None:
        """Return a task; None when all have been drawn or the budget is used up."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            return None
        if self.left_over:
            task = self.left_over.popleft()
            self._ask(task)
            return task
        if self.drawn >= self.trials:
            return None
        trial = self.study.ask()
        task = Task(f"{self.drawn:04d}", draw(trial, self.space, self.base), self.seed, ranks=self.ranks)
        self.asked[task.name] = trial
        self.drawn += 1
        self.ledger.begin(task)
        return task

    def on_end(self, outcome: Outcome) -> None:
        """Record and report the end of a task, then let TPE learn from it."""
        super().on_end(outcome)
        self._tell(outcome)

    def _ask(self, task: Task) -> None:
        """Register known settings as a trial of Optuna."""
        self.study.enqueue_trial(task.settings)
        trial = self.study.ask()
        draw(trial, self.space, self.base)
        self.asked[task.name] = trial

    def _tell(self, outcome: Outcome) -> None:
        """Report the curve and the end of a trial to Optuna."""
        trial = self.asked.pop(outcome.task.name)
        if outcome.outcome == "failed" or not outcome.curve:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for metrics in outcome.curve:
            trial.report(metrics["val"], int(metrics["epoch"]))
        if outcome.outcome == "stopped":
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, outcome.last["val"])

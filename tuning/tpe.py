"""TpeSource: the tasks of a search, drawn by Optuna's TPE, which learns from the ledger after a restart."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import optuna

from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.sources import MakeSpec, RecordedSource
from tuning.space import SPACE, Axis, Drawn, draw

STARTUP = 10  # trials drawn at random before TPE starts to model
# A draw by TPE costs as much as it has trials: .05 s for 1,000, .5 s for 10,000. So from twice this number on it learns
# from so many: the best quarter, and the latest of the others.
LEARNED = 1000
ENDED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)


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
        self.sampler = optuna.samplers.TPESampler(
            n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True,
            seed=seed * 1_000_003 + self.drawn,
        )  # fmt: skip
        self.asked: dict[str, optuna.Trial] = {}
        self._learn([self._recorded(outcome) for outcome in ledger.ended.values()])

    def next(self) -> Task | None:
        """Return a task; None when all have been drawn or the budget is used up."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            return None
        if self.left_over:
            task = self.left_over.popleft()
            self._ask(task.name, task.settings)
            return task
        if self.drawn >= self.trials:
            return None
        if self.learned > 2 * LEARNED:
            self._learn(self.study.get_trials(deepcopy=False, states=ENDED))
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

    def _recorded(self, outcome: Outcome) -> optuna.trial.FrozenTrial:
        """Return an ended trial as Optuna keeps it. To ask for it again would cost a draw by TPE."""
        fixed = optuna.trial.FixedTrial(outcome.task.settings)
        draw(fixed, self.space, self.base)
        state, curve = end_of(outcome)
        return optuna.trial.create_trial(
            state=state,
            value=outcome.last["val"] if curve else None,
            params=fixed.params,
            distributions=fixed.distributions,
            intermediate_values=curve,
        )

    def _learn(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """Start an Optuna study that knows these ended trials, or what remains of many, and the running ones."""
        self.study = optuna.create_study(direction="maximize", sampler=self.sampler)
        kept = remaining(trials)
        self.study.add_trials(kept)
        self.learned = len(kept)
        for name, trial in list(self.asked.items()):
            self._ask(name, trial.params)

    def _ask(self, name: str, settings: Mapping[str, Any]) -> None:
        """Register the known settings of a running trial."""
        self.study.enqueue_trial(dict(settings))
        trial = self.study.ask()
        draw(trial, self.space, self.base)
        self.asked[name] = trial

    def _tell(self, outcome: Outcome) -> None:
        """Report the curve and the end of a trial to Optuna."""
        trial = self.asked.pop(outcome.task.name)
        self.learned += 1
        state, curve = end_of(outcome)
        for epoch, val in curve.items():
            trial.report(val, epoch)
        finished = state == optuna.trial.TrialState.COMPLETE
        self.study.tell(trial, outcome.last["val"] if finished else None, state=state)


def end_of(outcome: Outcome) -> tuple[optuna.trial.TrialState, dict[int, float]]:
    """Return the state of an ended trial for Optuna, and its validation accuracy by epoch; none of a failed one."""
    if outcome.outcome == "failed" or not outcome.curve:
        return optuna.trial.TrialState.FAIL, {}
    curve = {int(metrics["epoch"]): metrics["val"] for metrics in outcome.curve}
    stopped = outcome.outcome == "stopped"
    return optuna.trial.TrialState.PRUNED if stopped else optuna.trial.TrialState.COMPLETE, curve


def remaining(trials: Sequence[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """Return what TPE learns from: all trials, or of more than twice LEARNED the best quarter and the latest others."""
    if len(trials) <= 2 * LEARNED:
        return list(trials)
    known = [place for place, trial in enumerate(trials) if trial.value is not None]
    best = set(sorted(known, key=lambda place: -(trials[place].value or 0.0))[: LEARNED // 4])
    others = [place for place in range(len(trials)) if place not in best]
    return [trials[place] for place in sorted(best | set(others[len(best) - LEARNED :]))]

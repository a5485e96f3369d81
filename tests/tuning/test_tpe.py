"""tpe.py: a search's tasks without Ray - resumed, within the budget, learned from."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuning import tpe
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.search import Search, tpe_source
from tuning.tpe import TpeSource


def source(data: Path, out: Path, **more: Any) -> TpeSource:
    """The source of a search, without Ray, resumed from the ledger."""
    settings = Search(data, out, **more)
    return tpe_source(settings, StudyLedger(out, {}), ProgressReporter(out, "search", settings.trials, 0, "off"))


def outcome(task: Task, val: float) -> Outcome:
    """A trial of two epochs."""
    return Outcome(task, "finished", curve=[{"epoch": 1, "val": val / 2}, {"epoch": 2, "val": val}])


def test_what_was_under_way_comes_first_and_settings_are_not_drawn_twice(data_file: Path, tmp_path: Path) -> None:
    """After a kill with three trials begun and one ended."""
    first = source(data_file, tmp_path, trials=6)
    tasks = [first.next() for _ in range(3)]
    first.on_end(outcome(tasks[1], 0.5))
    again = source(data_file, tmp_path, trials=6)
    rest = list(iter(again.next, None))
    assert rest[:2] == [tasks[0], tasks[2]]
    assert [task.name for task in rest] == ["0000", "0002", "0003", "0004", "0005"]
    drawn = [json.dumps(task.settings) for task in [*tasks, *rest[2:]]]
    assert len(set(drawn)) == 6


def test_each_outcome_has_its_own_state_in_optuna(data_file: Path, tmp_path: Path) -> None:
    """A stopped trial is pruned at its last epoch, a failed one does not count, even if it was evaluated."""
    first = source(data_file, tmp_path, trials=4)
    finished, stopped, failed, empty = (first.next() for _ in range(4))
    first.on_end(outcome(finished, 0.5))
    first.on_end(replace(outcome(stopped, 0.25), outcome="stopped"))
    first.on_end(replace(outcome(failed, 0.75), outcome="failed"))
    first.on_end(replace(outcome(empty, 0.0), curve=[]))
    trials = first.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert [trial.value for trial in trials[:2]] == [0.5, 0.25]
    assert trials[1].intermediate_values == {1: 0.125, 2: 0.25}
    again = source(data_file, tmp_path, trials=4)
    assert [(trial.params, trial.state, trial.value) for trial in again.study.trials] == [
        (trial.params, trial.state, trial.value) for trial in trials
    ]


def test_all_tasks_have_the_seed_and_the_ranks_of_the_search(data_file: Path, tmp_path: Path) -> None:
    """Another seed draws other settings; the same one draws the same."""
    drawn = [
        source(data_file, tmp_path / str(number), seed=seed, ranks_per_trial=2).next()
        for number, seed in enumerate((3, 3, 4))
    ]
    assert [(task.name, task.seed, task.ranks) for task in drawn] == [("0000", 3, 2), ("0000", 3, 2), ("0000", 4, 2)]
    assert drawn[0].settings == drawn[1].settings != drawn[2].settings


def test_tpe_models_settings_together_and_counts_running_trials_as_bad(data_file: Path, tmp_path: Path) -> None:
    """Read from private attributes: Optuna has no public ones."""
    sampler = source(data_file, tmp_path).study.sampler
    assert (sampler._n_startup_trials, sampler._multivariate, sampler._group, sampler._constant_liar) == (
        10, True, True, True
    )  # fmt: skip


def test_no_trial_starts_after_the_budget(data_file: Path, tmp_path: Path) -> None:
    """Not even one that was under way: it stays so."""
    first = source(data_file, tmp_path, trials=6, budget="30m")
    assert first.next() is not None
    first.deadline = time.monotonic() - 1
    assert first.next() is None
    late = source(data_file, tmp_path, trials=6, budget="30m")
    late.deadline = time.monotonic() - 1
    assert late.next() is None
    assert list(late.ledger.under_way) == ["0000"]


def test_a_long_search_learns_from_the_best_and_the_latest_trials(
    data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a draw does not slow down; running trials stay known, and the ledger keeps all."""
    monkeypatch.setattr(tpe, "LEARNED", 8)
    first = source(data_file, tmp_path, trials=40)
    running = first.next()
    for place, task in enumerate(iter(first.next, None)):
        first.on_end(outcome(task, 0.9 if place in (1, 3) else place / 100))
    assert len(first.ledger.ended) == 39
    known = first.study.trials
    assert 8 <= len(known) <= 18
    assert [trial.value for trial in known].count(0.9) == 2
    assert known[-1].value == 0.38
    first.on_end(outcome(running, 0.5))
    assert first.study.best_value == 0.9
    again = source(data_file, tmp_path, trials=40)
    assert [trial.value for trial in again.study.trials] == [0.9, 0.9, *(place / 100 for place in range(34, 39)), 0.5]


def test_tpe_learns_from_the_ledger(data_file: Path, tmp_path: Path) -> None:
    """If only one dropout is good, most draws after a resume have it; of random draws a quarter would."""
    first = source(data_file, tmp_path, trials=40)
    for task in iter(first.next, None):
        first.on_end(outcome(task, 0.9 if task.settings["model.dropout"] == 0.2 else 0.1))
    again = source(data_file, tmp_path, trials=60)
    drawn = [task.settings["model.dropout"] for task in iter(again.next, None)]
    assert len(drawn) == 20
    assert drawn.count(0.2) >= 10

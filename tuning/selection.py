"""Choices of a study on validation: the learning rate of each arm and data set, and the arms that get all seeds.

Trainings that serve a choice never read the test split. They have one seed, so that choosing among three rates costs
three trainings per arm and data set, or about half of that where ASHA stops them. Data sets whose trainings and val
clips are the same, and which differ in the test clips alone, share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from tuning.arms import Arms
from tuning.ledger import Outcome, Task
from tuning.results import is_ranked
from tuning.sets import DataSet

RATE = "optim.lr"
Cell = tuple[str, str]  # name of the data set, name of the arm


def shared_choices(sets: Mapping[str, DataSet]) -> dict[str, str]:
    """Return the data set that each takes its choice from: the first with the same train and val clips and settings.

    Args:
        sets: Data sets by name.
    """
    first: dict[Any, str] = {}
    return {name: first.setdefault(one.training_key(), name) for name, one in sets.items()}


def candidates(tasks: Iterable[Task], rates: Sequence[float]) -> list[Task]:
    """Return one training per task and learning rate, for the choice alone.

    Args:
        tasks: One training of each arm on each data set.
        rates: Learning rates; without any, each task is trained with its own.
    """
    return [
        replace(
            task,
            name=f"{task.name}-choosing" + ("" if rate is None else f"-lr-{rate:g}"),
            settings=task.settings | ({} if rate is None else {RATE: rate}),
            re_evaluations=(),
            choosing=True,
        )
        for task in tasks
        for rate in (rates or (None,))
    ]


def best_of_each(outcomes: Iterable[Outcome]) -> dict[Cell, Outcome]:
    """Return the best candidate on validation of each arm and data set; a cell whose trainings all failed is absent."""
    best: dict[Cell, Outcome] = {}
    for outcome in outcomes:
        cell = outcome.task.data_set, outcome.task.arm
        if is_ranked(outcome) and (cell not in best or standing(outcome) > standing(best[cell])):
            best[cell] = outcome
    return best


def standing(outcome: Outcome) -> tuple[int, float]:
    """Return what candidates are ordered by: the epochs that ASHA let it train, then the last accuracy on val."""
    return int(outcome.last["epoch"]), outcome.last["val"]


def screened(arms: Arms, best: Mapping[Cell, Outcome], sets: Sequence[str], keep: int) -> Arms:
    """Return the `keep` arms with the best mean rank on validation over the data sets, and those that always stay.

    Args:
        arms: All arms. A re-evaluation stays where its arm does.
        best: The best candidate of each arm and data set; an arm that lacks one ranks last there.
        sets: Names of the data sets.
        keep: Number of trained arms; 0 keeps all.
    """
    names = list(arms.trained())
    if not keep or keep >= len(names):
        return arms
    mean_rank = np.mean([_ranks(best, one, names) for one in sets], axis=0)
    first = sorted(range(len(names)), key=lambda number: (mean_rank[number], number))[:keep]
    staying = (arms.baseline, *arms.always)
    kept = {names[number] for number in first} | {arms.arms[name].of or name for name in staying}
    return Arms(arms.baseline, {name: arm for name, arm in arms.arms.items() if (arm.of or name) in kept}, arms.always)


def _ranks(best: Mapping[Cell, Outcome], one: str, names: Sequence[str]) -> list[float]:
    """Return the ranks of the arms on one data set, 1 is the best; ties share the mean of their ranks."""
    standings = [standing(best[one, name]) if (one, name) in best else (-1, 0.0) for name in names]
    order = {value: place for place, value in enumerate(sorted(set(standings)))}
    return list(map(float, rankdata([-order[value] for value in standings])))

"""Choices of a study on validation: the learning rate of each arm and data set, and the arms that get all seeds.

Trainings that serve a choice never read the test split. They have one seed, so that choosing among three rates costs
three trainings per arm and data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from tuning.arms import Arms
from tuning.ledger import Outcome, Task
from tuning.results import is_ranked

RATE = "optim.lr"
Cell = tuple[str, str]  # name of the data set, name of the arm


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
        if is_ranked(outcome) and (cell not in best or outcome.last["val"] > best[cell].last["val"]):
            best[cell] = outcome
    return best


def screened(arms: Arms, best: Mapping[Cell, Outcome], sets: Sequence[str], keep: int) -> Arms:
    """Return the `keep` arms with the best mean rank on validation over the data sets, and the baseline.

    Args:
        arms: All arms. A re-evaluation stays where its arm does.
        best: The best candidate of each arm and data set; an arm that lacks one ranks last there.
        sets: Names of the data sets.
        keep: Number of trained arms; 0 keeps all.
    """
    names = list(arms.trained())
    if not keep or keep >= len(names):
        return arms
    val = np.array([[best[one, name].last["val"] if (one, name) in best else -1.0 for name in names] for one in sets])
    mean_rank = rankdata(-val, axis=1).mean(axis=0)
    first = sorted(range(len(names)), key=lambda number: (mean_rank[number], number))[:keep]
    kept = {names[number] for number in first} | {arms.baseline} | {arms.arms[arms.baseline].of}
    return Arms(arms.baseline, {name: arm for name, arm in arms.arms.items() if (arm.of or name) in kept})

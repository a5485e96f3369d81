"""Choices of a study on validation: the learning rate of each arm and data set, and the arms that get all seeds.

Trainings that serve a choice never read the test split. They have one seed, so that choosing among three rates costs
three trainings per arm and data set. Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943) makes it cheaper:
on each rung all candidates of a data set are compared at the same epoch, and the best third goes on. So neither the
order of the arms nor a resumed command changes the choice. Data sets whose train and val clips are the same, and which
differ in the test clips alone, share it.

A choice that a trial was trained with holds, also where arms are added later that change who goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from tuning.arms import Arms
from tuning.engine import REDUCTION
from tuning.ledger import Outcome, Task

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


class Candidate(NamedTuple):
    """A training that serves a choice, and how far it got in the halving of its data set."""

    outcome: Outcome
    rung: int
    """Number of the last rung on which it was compared; the end of training is one more than the rungs."""
    epoch: int
    """The epoch of that rung."""
    val: float
    """Accuracy on val at that epoch."""

    @property
    def standing(self) -> tuple[int, float]:
        """Sort key: who passed more rungs was better on each of them."""
        return self.rung, self.val


def at_rung(outcomes: Iterable[Outcome], rung: int, epoch: int | None) -> list[Candidate]:
    """Return the candidates with their accuracy at an epoch, whatever was trained beyond.

    One that failed is absent, unless it had got to this epoch: it was compared there when it had not failed yet.

    Args:
        outcomes: The trainings.
        rung: Number of the rung.
        epoch: Its epoch; None: the last one of each training.
    """
    found = []
    for outcome in outcomes:
        curve = [line for line in outcome.curve if epoch is None or line["epoch"] <= epoch]
        failed = outcome.outcome == "failed" and (epoch is None or outcome.last.get("epoch", 0) < epoch)
        if not failed and curve and curve[-1]["val"] is not None:
            found.append(Candidate(outcome, rung, int(curve[-1]["epoch"]), curve[-1]["val"]))
    return found


def survivors(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the best third of the candidates on a rung, and all that are as good as the last of it."""
    values = sorted((one.val for one in candidates), reverse=True)
    if not values:
        return []
    limit = values[-(-len(values) // REDUCTION) - 1]
    return [one for one in candidates if one.val >= limit]


def best_of_each(
    candidates: Iterable[Candidate], held: Mapping[Cell, Mapping[str, Any]] | None = None
) -> dict[Cell, Candidate]:
    """Return the best candidate on validation of each data set and arm; a cell whose trainings all failed is absent.

    Args:
        candidates: All of them.
        held: Settings of the cells whose choice holds: theirs is the candidate that has them.
    """
    best: dict[Cell, Candidate] = {}
    for one in candidates:
        task = one.outcome.task
        cell = task.data_set, task.arm
        settings = (held or {}).get(cell)
        out = one.outcome.outcome == "failed" if settings is None else task.settings != settings
        if not out and (cell not in best or one.standing > best[cell].standing):
            best[cell] = one
    return best


def screened(arms: Arms, best: Mapping[Cell, Candidate], sets: Sequence[str], keep: int) -> Arms:
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
    return arms.only(kept)


def _ranks(best: Mapping[Cell, Candidate], one: str, names: Sequence[str]) -> list[float]:
    """Return the ranks of the arms on one data set, 1 is the best; ties share the mean of their ranks."""
    standings = [best[one, name].standing if (one, name) in best else (-1, 0.0) for name in names]
    order = {value: place for place, value in enumerate(sorted(set(standings)))}
    return list(map(float, rankdata([-order[value] for value in standings])))

"""STUDY/ledger.jsonl: the record of a search or a study, one line per event, on the disk before work goes on.

Searches and studies resume from it alone. Ray's own state is pickle, a kill can tear it, and it is never read back.

The first line names the study (`study`); a later such line names it again, with arms or data sets that were added. Each
other line is `begun` (a task with its settings and seed), `failed` (an attempt, with its cause) or `ended` (the task
with its outcome). A task that began and did not end was under way when the driver died: it is done first, from its own
last checkpoint. A task that ended is never done again, unless what failed was the machine (MACHINE) and not the task.

Lines are chained, and `ledger.head.json` counts them: an edited, dropped or added line ends a resumed command with exit
code 6, unless `skelnorm adopt STUDY` accepted it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from preprocessing import journal_head
from preprocessing.files import IntegrityError
from preprocessing.journal import Journal

NAME = "ledger.jsonl"
ENDS = ("finished", "stopped", "failed")
GROWING = ("arms", "sets")  # a resumed study may have more of these
MACHINE = ("no space: ", "worker lost: ")  # how a cause begins that another command may not meet


@dataclass(frozen=True)
class Task:
    """One training."""

    name: str
    """Also the name of its folder in STUDY/trials."""
    settings: dict[str, Any]
    """Flat settings that distinguish it (`norm.kind`)."""
    seed: int
    arm: str = ""
    ranks: int = 1
    re_evaluations: tuple[str, ...] = ()
    """Further evaluations of the trained network, without retraining (tuning.re_evaluations)."""
    data_set: str = ""
    """Name of its data set, in a study over several."""
    choosing: bool = False
    """The training only serves a choice on validation; it does not read the test split."""


@dataclass(frozen=True)
class Outcome:
    """The end of a task."""

    task: Task
    outcome: str
    """finished, stopped (early, by the scheduler) or failed."""
    cause: str = ""
    """Cause of the failure, in one line."""
    attempts: int = 1
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry per evaluated epoch: epoch, train accuracy, A to D, gaps; `val` is C."""
    summary: dict[str, Any] = field(default_factory=dict)
    """The run's summary.json, when it finished."""
    re_evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Result of each re-evaluation, by name."""

    @property
    def last(self) -> dict[str, float]:
        """Return the last evaluated epoch; empty if there is none."""
        return self.curve[-1] if self.curve else {}


class OtherStudy(ValueError):
    """The folder belongs to a study with other settings."""


class StudyLedger:
    """The ledger in `folder` of the study `identity`, created or resumed.

    Args:
        folder: The study folder.
        identity: What distinguishes this study from another one, as JSON values.

    A resumed study may have further arms and further data sets; those that it had must be as they were.

    Raises:
        OtherStudy: The folder holds a study with another identity.
        IntegrityError: A line was edited, dropped or added, or is not the record of an event.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / NAME
        found = journal_head.check(self._path, _remedy(folder))
        self._adopted = journal_head.adoptions(self._path)
        self._journal = Journal(self._path, chain=True, lines=found)
        lines = self._journal.records
        mine = json.loads(json.dumps(identity))
        theirs = _recorded(folder, lines)
        if theirs is not None and (differing := _differences(mine, theirs)):
            raise OtherStudy(
                f"{folder} holds a study with other settings ({'; '.join(differing)}); choose another --out or "
                "delete it"
            )
        self.ended: dict[str, Outcome] = {}
        self.under_way: dict[str, Task] = {}
        self.failures: Counter[str] = Counter()
        for number, line in enumerate(lines[1:], 2):
            try:
                self._replay(line)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise _damaged(folder, number, f"{type(error).__name__}: {error}") from None
        if lines:
            self._publish_head()  # of an older version's ledger, or after a kill
        if mine != theirs:  # new, or grown
            self._append({"study": mine})

    def _replay(self, line: dict[str, Any]) -> None:
        if "begun" in line:
            task = _task(line["begun"])
            self.under_way[task.name] = task
        elif "failed" in line:
            self.failures[line["failed"]] += 1
        elif "study" not in line:
            outcome = _outcome(line["ended"])
            if outcome.outcome == "failed" and outcome.cause.startswith(MACHINE):
                self.under_way[outcome.task.name] = outcome.task
            else:
                self._note(outcome)

    def _append(self, record: dict[str, Any]) -> None:
        self._journal.append(record)
        self._publish_head()

    def _publish_head(self) -> None:
        journal_head.publish(self._path, self._journal.count, self._journal.last, self._adopted)

    def recorded(self, name: str) -> Task | None:
        """Return a task as it is on the record: ended, or under way; None if it is not there."""
        ended = self.ended.get(name)
        return ended.task if ended else self.under_way.get(name)

    def begin(self, task: Task) -> None:
        """Record that a task is under way."""
        if task.name not in self.under_way:
            self._append({"begun": _task_line(task)})
            self.under_way[task.name] = task

    def fail(self, task: Task, cause: str) -> None:
        """Record a failed attempt."""
        self._append({"failed": task.name, "cause": cause})
        self.failures[task.name] += 1

    def end(self, outcome: Outcome) -> None:
        """Record the end of a task with its number of attempts, and with what it reported before it was stopped."""
        attempts = self.failures[outcome.task.name] + (outcome.outcome != "failed")
        before = self.ended.get(outcome.task.name)
        curve = {line["epoch"]: line for line in [*(before.curve if before else ()), *outcome.curve]}
        outcome = replace(outcome, attempts=attempts, curve=[curve[epoch] for epoch in sorted(curve)])
        self._append({"ended": _outcome_line(outcome)})
        self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        self.under_way.pop(outcome.task.name, None)
        self.ended[outcome.task.name] = outcome


def _recorded(folder: Path, lines: list[Any]) -> dict[str, Any] | None:
    """Return the study as its last `study` line names it; None without lines.

    Raises:
        IntegrityError: The first line, or a later `study` line, does not name a study.
    """
    study = None
    for number, line in enumerate(lines, 1):
        if number == 1 or (isinstance(line, dict) and "study" in line):
            study = line.get("study") if isinstance(line, dict) else None
            if not isinstance(study, dict):
                raise _damaged(folder, number, "it does not name the study")
    return study


def _differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return what differs from a recorded study, arms and data sets by name; new ones do not differ.

    Except a new re-evaluation of an old arm, whose trainings may have ended without it.
    """
    found = []
    for key in sorted(mine.keys() | theirs.keys()):
        now, before = mine.get(key), theirs.get(key)
        if key not in GROWING or not isinstance(now, dict) or not isinstance(before, dict):
            found += [key] * (now != before)
            continue
        changed = [name for name, value in before.items() if now.get(name) != value]
        changed += [name for name, value in now.items() if name not in before and value.get("of") in before]
        if changed:
            found.append(f"{key}: {', '.join(changed)}" if len(changed) < len(before) else key)
    return found


def _damaged(folder: Path, number: int, why: str) -> IntegrityError:
    return IntegrityError(f"{folder / NAME}: line {number} is not the record of an event ({why}). {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"Restore the file from a copy, or accept it as it is: skelnorm adopt {folder}"


# In the file re-evaluations are called variants: the key that studies of older versions have.


def _task_line(task: Task) -> dict[str, Any]:
    values = asdict(task)
    values["variants"] = values.pop("re_evaluations")
    for key in ("data_set", "choosing"):  # absent where not used, as in studies of older versions
        if not values[key]:
            del values[key]
    return values


def _outcome_line(outcome: Outcome) -> dict[str, Any]:
    values = asdict(outcome)
    values["task"] = _task_line(outcome.task)
    values["variants"] = values.pop("re_evaluations")
    return values


def _task(values: dict[str, Any]) -> Task:
    rest = {key: value for key, value in values.items() if key != "variants"}
    task = Task(**rest, re_evaluations=tuple(values["variants"]))
    if not (isinstance(task.name, str) and isinstance(task.settings, dict) and type(task.seed) is int):
        raise TypeError("name must be a text, settings an object and seed a whole number")
    return task


def _outcome(values: dict[str, Any]) -> Outcome:
    rest = {key: value for key, value in values.items() if key not in ("task", "variants")}
    outcome = Outcome(**rest, task=_task(values["task"]), re_evaluations=values["variants"])
    if outcome.outcome not in ENDS or not isinstance(outcome.curve, list) or not isinstance(outcome.summary, dict):
        raise TypeError(f"outcome must be one of {', '.join(ENDS)}, curve a list and summary an object")
    return outcome

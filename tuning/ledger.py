"""STUDY/ledger.jsonl: what a study has done, one line an event, forced to the disk.

It is the truth: Ray's own state can be torn by a kill, is pickle, and is never read back.

The first line says whose ledger it is; then `begun` (a task with its settings and seed), `failed` (an attempt, with its
cause) and `ended` (the task with its outcome). A task that was begun and has not ended was under way when the driver
died: it is done first, from its own last checkpoint. One that has ended is never done again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

NAME = "ledger.jsonl"


@dataclass(frozen=True)
class Task:
    """One training that is wanted."""

    name: str
    """Names its folder in STUDY/trials, too."""
    settings: dict[str, Any]
    """What distinguishes it, flat (`norm.kind`)."""
    seed: int
    arm: str = ""
    ranks: int = 1
    re_evaluations: tuple[str, ...] = ()
    """Further evaluations of the trained network, without retraining (tuning.re_evaluations)."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    task: Task
    outcome: str
    """finished, stopped (early, by the scheduler), or failed."""
    cause: str = ""
    """Why it failed."""
    attempts: int = 1
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, train accuracy, A to D, gaps; `val` is C."""
    summary: dict[str, Any] = field(default_factory=dict)
    """The run's summary.json, when it finished."""
    re_evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Result of each re-evaluation, by name."""

    @property
    def last(self) -> dict[str, float]:
        """The last epoch that was evaluated; empty when none was."""
        return self.curve[-1] if self.curve else {}


class OtherStudy(ValueError):
    """The folder belongs to a study with other settings."""


class Ledger:
    """The ledger of the study `identity` in `folder`, taken up where it is."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        lines = _cut(self.path)
        mine = json.loads(json.dumps(identity))
        if not lines:
            self._append({"study": mine})
        else:
            theirs = lines[0]["study"]
            differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            if differing:
                raise OtherStudy(
                    f"{folder} holds a study with other settings ({', '.join(differing)}); choose another --out or "
                    "delete it"
                )
        self.ended: dict[str, Outcome] = {}
        self.under_way: dict[str, Task] = {}
        self.failures: Counter[str] = Counter()
        for line in lines[1:]:
            if "begun" in line:
                task = _task(line["begun"])
                self.under_way[task.name] = task
            elif "failed" in line:
                self.failures[line["failed"]] += 1
            else:
                self._note(_outcome(line["ended"]))

    def begin(self, task: Task) -> None:
        """Note that a task is under way."""
        if task.name not in self.under_way:
            self._append({"begun": _task_line(task)})
            self.under_way[task.name] = task

    def fail(self, task: Task, cause: str) -> None:
        """Note that an attempt failed."""
        self._append({"failed": task.name, "cause": cause})
        self.failures[task.name] += 1

    def end(self, outcome: Outcome) -> None:
        """Note how it ended, after how many attempts."""
        attempts = self.failures[outcome.task.name] + (outcome.outcome != "failed")
        outcome = replace(outcome, attempts=attempts)
        self._append({"ended": _outcome_line(outcome)})
        self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        self.under_way.pop(outcome.task.name, None)
        self.ended[outcome.task.name] = outcome

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _cut(path: Path) -> list[dict[str, Any]]:
    """The whole lines; what a kill tore off at the end is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


# In the file re-evaluations are called variants: the key that studies of older versions have.


def _task_line(task: Task) -> dict[str, Any]:
    values = asdict(task)
    values["variants"] = values.pop("re_evaluations")
    return values


def _outcome_line(outcome: Outcome) -> dict[str, Any]:
    values = asdict(outcome)
    values["task"] = _task_line(outcome.task)
    values["variants"] = values.pop("re_evaluations")
    return values


def _task(values: dict[str, Any]) -> Task:
    rest = {key: value for key, value in values.items() if key != "variants"}
    return Task(**rest, re_evaluations=tuple(values["variants"]))


def _outcome(values: dict[str, Any]) -> Outcome:
    rest = {key: value for key, value in values.items() if key not in ("task", "variants")}
    return Outcome(**rest, task=_task(values["task"]), re_evaluations=values["variants"])

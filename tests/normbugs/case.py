"""Define a case of NormBugs: one public thread, as a small program with a buggy and a fixed twin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pipeline.normdoctor.checks import CHECKS

CASES = Path(__file__).parent / "cases"
# Names of the doctor that blame normalization, its use or its inputs.
NORM_CAUSES = frozenset(CHECKS) | {"foreign", "inputs"}


@dataclass(frozen=True)
class Patient:
    """A trained model with everything that the thread's user passes to an evaluation, and to the doctor."""

    model: nn.Module
    """As the user evaluates it: mode, buffers and wrapper included."""
    train: Iterable[Any]
    """The training loader, as in the thread."""
    held_out: Iterable[Any] | None
    """The evaluation loader, as in the thread."""
    score: Callable[[nn.Module], float]
    """The user's own evaluation of a model, in the mode that it is passed in; higher is better."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of `diagnose` beside these, as few as a user would pass."""


@dataclass(frozen=True)
class Case:
    """A thread, its established cause, and the program that rebuilds it."""

    name: str
    """Name of the file, such as pytorch_4741."""
    thread: str
    """Address of the thread."""
    kind: str
    """Row of the results table, such as momentum, reuse or mode."""
    causes: tuple[str, ...]
    """Acceptable first names of the doctor; empty: a control, in which no norm cause may be named."""
    certainty: Literal["maintainer", "reporter", "rebuilt"]
    """Basis of the cause: a maintainer's or reporter's statement in the thread, or this rebuild alone."""
    blind: bool
    """True if the case was written before the doctor was run on it."""
    make: Callable[[int, bool], Patient]
    """(seed, fixed) -> the buggy program, or its fixed twin."""


def names() -> list[str]:
    """Return the names of all cases."""
    return sorted(path.stem for path in CASES.glob("[!_]*.py"))


def load(name: str) -> Case:
    """Return the case of a name."""
    return import_module(f"tests.normbugs.cases.{name}").CASE

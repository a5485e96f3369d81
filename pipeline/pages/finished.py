"""Finished run folders as pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import run_folder

COUNTS = 0.02  # smallest normalization gap that a page reports, as a fraction


@dataclass(frozen=True)
class FinishedRun:
    """Figures of a finished run folder."""

    name: str
    summary: dict[str, Any]
    lines: list[dict[str, Any]]
    """The ledger's, one per epoch."""
    doctor: dict[str, Any] | None

    @property
    def norm(self) -> dict[str, Any]:
        """Settings of its normalization."""
        norm: dict[str, Any] = self.summary["config"]["norm"]
        return norm

    @property
    def eval_split(self) -> str:
        """Name of the evaluation split: test, or val where the file has no test split."""
        return str(self.summary["eval"])

    @property
    def eval_top1(self) -> float:
        """Accuracy on the evaluation split (fraction)."""
        value: float = self.summary[self.eval_split]["top1"]
        return value

    @property
    def normalization_gap(self) -> float:
        """B - A (fraction)."""
        value: float = self.summary["gap"]["normalization"]
        return value

    @property
    def repaired(self) -> bool:
        """True for a run that the doctor wrote: weights of another run with other statistics."""
        return "fix" in self.summary


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        ValueError: The folder is not a finished run, or lacks what a page shows.
    """
    run = run_folder.Run(folder)
    summary = run.summary
    if "train" not in summary:
        raise ValueError(f"{folder} has lost its ledger.jsonl, which has the epochs that a page draws. Put it back.")
    if not summary.get(summary["eval"]):
        raise ValueError(f"{folder} was evaluated on no clips: its data has neither val nor test, which a page needs.")
    return FinishedRun(run.name, summary, run.ledger, run.doctor)


def with_distinct_names(runs: list[FinishedRun], folders: Sequence[Path]) -> list[FinishedRun]:
    """Return the runs; where two have one name, with the names of their parent folders in front."""
    if len({run.name for run in runs}) == len(runs):
        return runs
    return [
        replace(run, name=f"{folder.resolve().parent.name}/{run.name}")
        for run, folder in zip(runs, folders, strict=True)
    ]


def patient(runs: list[FinishedRun]) -> FinishedRun:
    """Return the run with the largest normalization gap, which the page is about."""
    return max(runs, key=lambda run: run.normalization_gap)


def without_norm(runs: list[FinishedRun]) -> FinishedRun | None:
    """Return the first run without normalization."""
    return next((run for run in runs if run.norm["kind"] == "none"), None)

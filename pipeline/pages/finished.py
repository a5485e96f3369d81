"""Finished run folders as pages show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import run_folder

Z = 1.959964  # of a 95 % interval
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
    def train_top1(self) -> float:
        """Training accuracy of the last epoch, summed up while it trains (fraction)."""
        value: float = self.summary["train"]["top1"]
        return value

    @property
    def eval_clips(self) -> int:
        """Number of clips of the evaluation split."""
        return int(self.summary["clips"][self.eval_split])

    @property
    def eval_interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy on the evaluation split: of the clips drawn, not of the seed."""
        return wilson(self.eval_top1, self.eval_clips)

    @property
    def normalization_gap(self) -> float:
        """B - A (fraction)."""
        value: float = self.summary["gap"]["normalization"]
        return value

    @property
    def repaired(self) -> bool:
        """True for a run that the doctor wrote: weights of another run with other statistics."""
        return "fix" in self.summary

    @property
    def origin(self) -> str:
        """Origin of its weights, in a few words."""
        if self.repaired:
            return f"“{self.summary['fix']['of']}” repaired, nothing retrained"
        if "init" in self.summary:
            return f"fine-tuned from “{Path(self.summary['init']['run']).name}”"
        return "trained"

    @property
    def settings(self) -> str:
        """Its normalization in a few words."""
        kind = self.norm["kind"]
        words = ["no norm"] if kind == "none" else [kind, self.norm["persons"]]
        if kind != "none" and self.norm.get("momentum") is not None:
            words.append(f"momentum {self.norm['momentum']:g}")
        if self.norm.get("input", "none") != "none":
            words.append(f"input {self.norm['input']}")
        return ", ".join(words)


def wilson(share: float, clips: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent clips (Wilson 1927)."""
    if not clips:
        return 0.0, 1.0
    z2 = Z * Z / clips
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / clips + z2 / (4 * clips)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def apart(first: FinishedRun, second: FinishedRun) -> bool:
    """Return whether the accuracies of two runs differ by more than their clips alone explain (Newcombe 1998)."""
    (low_a, high_a), (low_b, high_b) = first.eval_interval, second.eval_interval
    a, b = first.eval_top1, second.eval_top1
    below = math.hypot(a - low_a, high_b - b) if a > b else math.hypot(high_a - a, b - low_b)
    return abs(a - b) > below


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

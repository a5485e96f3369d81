"""The tables of a search (trials, best first) or a study (trials by arm, and arms, best first); as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from preprocessing import files, provenance
from tuning import statistics
from tuning.arms import Arms
from tuning.attempt import EPOCH_METRICS
from tuning.ledger import Outcome
from tuning.space import SPACE

RESULTS, TABLE = "results.json", "results.csv"
ARM_METRICS = ("train", "val", "test", "A", "B", "C", "D", "normalization_gap")


def write(study: Path, document: dict[str, Any]) -> None:
    """Publish STUDY/results.json and, from its rows under `trials`, STUDY/results.csv."""
    files.publish_json(study / RESULTS, document | {"provenance": provenance.record()})
    rows = document["trials"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    files.publish_text(study / TABLE, text.getvalue())


def read_results(study: Path) -> dict[str, Any]:
    """Read STUDY/results.json.

    Args:
        study: Folder of a search or a study.

    Returns:
        `command` (the settings as text) and `trials` (one row each); of a study also `arms`, `baseline` and `judged`
        (the evaluation split).

    Raises:
        FileNotFoundError: The folder has no results yet.
    """
    document: dict[str, Any] = files.read_json(study / RESULTS)
    return document


def best_first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Sort trials by validation accuracy, best first and those without one last; ties by name."""

    def key(outcome: Outcome) -> tuple[bool, float, str]:
        val = outcome.last.get("val")
        return val is None, -(val or 0.0), outcome.task.name

    return sorted(outcomes, key=key)


def is_ranked(outcome: Outcome) -> bool:
    """Return whether a trial has a validation accuracy and did not fail."""
    return outcome.outcome != "failed" and outcome.last.get("val") is not None


def search_rows(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return one row per trial of a search, best first; None for a setting that was not drawn or a missing metric."""
    listed = best_first(outcomes)
    drawn = dict.fromkeys(name for outcome in listed for name in outcome.task.settings)
    names = [*SPACE, *(name for name in drawn if name not in SPACE)]
    return [_search_row(outcome, names) for outcome in listed]


def _search_row(outcome: Outcome, names: Iterable[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": outcome.task.name, "outcome": outcome.outcome}
    row |= {name: outcome.task.settings.get(name) for name in names}
    row |= {name: outcome.last.get(name) for name in EPOCH_METRICS}
    return row | {"attempts": outcome.attempts, "error": outcome.cause}


def arm_rows(arms: Arms, outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return one row per arm and seed, re-evaluations included, in the order of the arms, then of the seeds."""
    by_seed = sorted(outcomes, key=lambda outcome: outcome.task.seed)
    return [
        _arm_row(name, arm.re_evaluation, outcome)
        for name, arm in arms.arms.items()
        for outcome in by_seed
        if outcome.task.arm == (arm.of or name)
    ]


def _arm_row(name: str, re_evaluation: str, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name, "seed": outcome.task.seed, "trial": outcome.task.name}
    row |= {"outcome": outcome.outcome, "attempts": outcome.attempts, "error": outcome.cause}
    metrics = dict.fromkeys(ARM_METRICS)
    if outcome.outcome == "finished":
        summary = outcome.summary
        four = summary["accuracies"]
        metrics |= {"train": summary["train"]["top1"], **four, "normalization_gap": summary["gap"]["normalization"]}
        for split in ("val", "test"):
            metrics[split] = summary[split].get("top1")
        if re_evaluation:
            # B and D use batch statistics, so they do not depend on the running statistics.
            found = outcome.re_evaluations[re_evaluation]
            metrics |= {split: found.get(split, {}).get("top1") for split in ("val", "test")}
            metrics |= {"A": found["A"], "C": found.get(summary["eval"], {}).get("top1")}
            metrics["normalization_gap"] = four["B"] - found["A"]
            row["identical"] = found["identical"]
    return row | metrics


def judged_split(rows: Iterable[dict[str, Any]]) -> str:
    """Return the evaluation split of the rows of trials: test if any has it, else val."""
    return "test" if any(row["test"] is not None for row in rows) else "val"


def study_document(arms: Arms, outcomes: Iterable[Outcome], split: str = "") -> dict[str, Any]:
    """Return the results of a study: every trial, and every arm with its effect against the baseline.

    Effects are measured on the evaluation split (test if the file has one, else val) and paired by seed. The arms are
    sorted by validation accuracy, so that the test split decides nothing.

    Args:
        arms: The arms and the baseline.
        outcomes: The trials that have ended.
        split: The evaluation split; empty: test if the file has one, else val.

    Returns:
        `judged` (the evaluation split), `baseline`, `arms` and `trials`.
    """
    rows = arm_rows(arms, outcomes)
    eval_split = split or judged_split(rows)
    if eval_split == "val":  # although the file has a test split, which C and D were measured on
        rows = [row if row["test"] is None else row | {"C": row["val"], "D": None} for row in rows]
    seeds_of = {name: _by_seed(name, rows, eval_split) for name in arms.arms}
    table = []
    for name, seeds in seeds_of.items():
        row: dict[str, Any] = {"arm": name, "n": len(seeds)}
        row["failed"] = sum(trial["arm"] == name and trial["outcome"] == "failed" for trial in rows)
        row |= _means(seeds.values())
        row |= _effect(seeds, {} if name == arms.baseline else seeds_of[arms.baseline], eval_split)
        if arms.arms[name].re_evaluation:
            row["identical"] = bool(seeds) and all(trial["identical"] for trial in seeds.values())
        table.append(row)
    corrected = statistics.holm({row["arm"]: row["p"] for row in table})
    for row in table:
        row["p_holm"] = corrected[row["arm"]]
    table.sort(key=lambda row: (row["val"] is None, -(row["val"] or 0.0)))
    return {"judged": eval_split, "baseline": arms.baseline, "arms": table, "trials": rows}


Seeds = dict[int, dict[str, Any]]  # seed -> row of a trial


def _by_seed(arm: str, rows: Iterable[dict[str, Any]], eval_split: str) -> Seeds:
    """Return the rows of an arm that have an accuracy on the evaluation split."""
    return {row["seed"]: row for row in rows if row["arm"] == arm and row[eval_split] is not None}


def _means(trials: Collection[dict[str, Any]]) -> dict[str, float | None]:
    """Return mean and standard deviation of each metric over the trials of an arm."""
    means: dict[str, float | None] = {}
    for metric in ARM_METRICS:
        values = [row[metric] for row in trials if row[metric] is not None]
        mean, std = statistics.mean_std(values) if values else (None, None)
        means |= {metric: mean, f"{metric}_std": std}
    return means


def _effect(seeds: Seeds, baseline: Seeds, eval_split: str) -> dict[str, Any]:
    """Return the effect against the baseline over the seeds that both have."""
    paired = sorted(seeds.keys() & baseline.keys())
    found = statistics.compare(
        [seeds[seed][eval_split] for seed in paired], [baseline[seed][eval_split] for seed in paired]
    )
    return {"pairs": len(paired), "effect": found.effect, "interval": found.interval, "p": found.p}


def plus_minus(mean: float | None, std: float | None) -> str:
    """Return mean and standard deviation in percent."""
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")

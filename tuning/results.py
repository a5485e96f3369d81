"""The study's tables: one row a trial and, in a study of arms, one an arm; as JSON and CSV, best first."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from preprocessing import files
from tuning import statistics
from tuning.arms import Arms
from tuning.ledger import Outcome

MEASURED = ("val", "train", "A", "B", "C", "D", "normalization_gap", "generalization_gap", "epoch")


def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best validation accuracy first; trials without one last."""
    return sorted(rows, key=lambda row: (row.get("val") is None, -(row.get("val") or 0.0), row["trial"]))


def search_row(outcome: Outcome, settings: tuple[str, ...]) -> dict[str, Any]:
    """A trial of a search; None for a setting that did not matter, or a figure there is not."""
    row: dict[str, Any] = {"trial": outcome.task.name, "outcome": outcome.outcome}
    row |= {name: outcome.task.settings.get(name) for name in settings}
    row |= {name: outcome.last.get(name) for name in MEASURED}
    return row | {"attempts": outcome.attempts, "error": outcome.cause}


def write(study: Path, document: dict[str, Any], table: str = "trials") -> None:
    """Publish STUDY/results.json and, of the rows under `table`, STUDY/results.csv."""
    files.publish_json(study / "results.json", document)
    rows = document[table]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    files.publish_text(study / "results.csv", text.getvalue())


def arm_rows(arms: Arms, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One row a trial and arm, an arm that is another evaluation included; sorted by arm, then seed."""
    by_seed = sorted(outcomes, key=lambda outcome: outcome.task.seed)
    return [
        _arm_row(name, arm.variant, outcome)
        for name, arm in arms.arms.items()
        for outcome in by_seed
        if outcome.task.arm == (arm.of or name)
    ]


def _arm_row(name: str, variant: str, outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": name, "seed": outcome.task.seed, "trial": outcome.task.name}
    row |= {"outcome": outcome.outcome, "attempts": outcome.attempts, "error": outcome.cause}
    figures = dict.fromkeys(FIGURES)
    if outcome.outcome == "finished":
        summary = outcome.summary
        four = summary["accuracies"]
        figures |= {"train": summary["train"]["top1"], **four, "normalization_gap": summary["gap"]["normalization"]}
        for split in ("val", "test"):
            figures[split] = summary[split].get("top1")
        if variant:
            # Batch statistics, B and D, do not depend on which running statistics there are.
            found = outcome.variants[variant]
            figures |= {split: found.get(split, {}).get("top1") for split in ("val", "test")}
            figures |= {"A": found["A"], "C": found.get(summary["eval"], {}).get("top1")}
            figures["normalization_gap"] = four["B"] - found["A"]
            row["identical"] = found["identical"]
    return row | figures


FIGURES = ("train", "val", "test", "A", "B", "C", "D", "normalization_gap")


def of_arms(arms: Arms, outcomes: list[Outcome]) -> dict[str, Any]:
    """The document of a study: every trial, and every arm with its effect against the baseline.

    Effects are on the split that is judged, test where the file has one, paired by seed; arms stand in the order of
    their accuracy on held-out training subjects, so that the test split orders nothing.
    """
    rows = arm_rows(arms, outcomes)
    judged = "test" if any(row["test"] is not None for row in rows) else "val"
    by_arm = {name: {r["seed"]: r for r in rows if r["arm"] == name and r[judged] is not None} for name in arms.arms}
    baseline = by_arm[arms.baseline]
    table = []
    for name, seeds in by_arm.items():
        row: dict[str, Any] = {"arm": name, "n": len(seeds), "failed": sum(_failed(r, name) for r in rows)}
        for figure in FIGURES:
            values = [r[figure] for r in seeds.values() if r[figure] is not None]
            mean, std = statistics.mean_std(values) if values else (None, None)
            row |= {figure: mean, f"{figure}_std": std}
        paired = sorted(seeds.keys() & baseline.keys()) if name != arms.baseline else []
        differences = [seeds[seed][judged] - baseline[seed][judged] for seed in paired]
        row |= {"pairs": len(paired), "effect": statistics.mean_std(differences)[0] if differences else None}
        row |= {"interval": statistics.bootstrap_interval(differences), "p": statistics.paired_p(differences)}
        if arms.arms[name].variant:
            row["identical"] = bool(seeds) and all(r["identical"] for r in seeds.values())
        table.append(row)
    corrected = statistics.holm({row["arm"]: row["p"] for row in table if row["arm"] != arms.baseline})
    for row in table:
        row["p_holm"] = corrected.get(row["arm"])
    table.sort(key=lambda row: (row["val"] is None, -(row["val"] or 0.0)))
    return {"judged": judged, "baseline": arms.baseline, "arms": table, "trials": rows}


def _failed(row: dict[str, Any], name: str) -> bool:
    return row["arm"] == name and row["outcome"] == "failed"


def plus_minus(mean: float | None, std: float | None) -> str:
    """Mean and standard deviation in percent."""
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")

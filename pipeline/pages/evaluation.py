"""Values of the page over one network on one data file: accuracies, classes and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pages import TERMS, figures, render
from pipeline.pages.classes import accuracy_table, confused_pairs, confusion_figure, pairs_table
from pipeline.pages.figures import BLUE, GREY, Curves, Series, percent
from preprocessing.pages import Box, Provenance


def page(result: dict[str, Any], provenance: Provenance) -> str:
    """Return the page as text.

    Args:
        result: Figures of `pipeline.evaluate.evaluate`.
        provenance: Shown in the footer.
    """
    names, counts_KK = result["class_names"], np.array(result["confusion"])
    run, data = Path(result["run"]).name, Path(result["data"]).name
    return render(
        "evaluation.html",
        provenance,
        kind="evaluation",
        title=f"“{run}” on {data}: {percent(result['metrics']['top1'], 1)}",
        subtitle=f"{result['protocol']}, {result['split']}: {result['clips']} clips of "
        f"{len(result['shared_classes'])} of the network's {len(names)} classes",
        boxes=boxes(result),
        notes=result["notes"],
        terms=TERMS,
        confusion=confusion_figure(run, counts_KK, names),
        pairs=pairs_table(confused_pairs(counts_KK, names)),
        accuracies=accuracy_table(counts_KK, names),
        reliability=reliability_figure(result["calibration"]),
    )


def boxes(result: dict[str, Any]) -> list[Box]:
    """Return the headline figures: accuracy, accuracies A to D, calibration."""
    scores, four, calibration = result["metrics"], result["accuracies"], result["calibration"]
    items = [("Top-5", percent(scores["top5"], 1)), ("Mean class accuracy", percent(scores["mean_class"], 1))]
    if 1 < len(result["shared_classes"]) < len(result["class_names"]):
        items.append(("Among the file's classes only", percent(result["among_shared"], 1)))
    gap = [(f"{name.capitalize()} gap", f"{100 * value:+.1f} points") for name, value in result["gap"].items()]
    lost = four["D"] - four["C"]
    words = (
        "Statistics of the file's own batches are more accurate: the running statistics belong to other data."
        if lost >= 0.05
        else "Running statistics and those of the file's own batches agree."
    )
    words = "" if four["C"] == four["D"] else words
    chosen = f"Chosen on {calibration['clips']} val clips." if calibration["clips"] else "No temperature was chosen."
    return [
        Box("Accuracy (C)", percent(four["C"], 1), items=tuple(items)),
        Box("Batch statistics (D)", percent(four["D"], 1), words, "bad" if lost >= 0.05 else "plain", tuple(gap)),
        Box(
            "Calibration error (ECE)",
            f"{100 * calibration['ece_calibrated']:.1f} points",
            f"At temperature {calibration['temperature']:.2f}; {100 * calibration['ece']:.1f} without it. {chosen}",
        ),
    ]


def reliability_figure(calibration: dict[str, Any]) -> Curves:
    """Draw the accuracy of the clips of each confidence bin against their confidence."""
    bins = calibration["bins"]
    most = max(one["clips"] for one in bins)
    points = tuple((100 * one["confidence"], 100 * one["accuracy"]) for one in bins)
    tips = [
        f"confidence {x:.0f} %, accuracy {y:.0f} %, {one['clips']} clips"
        for (x, y), one in zip(points, bins, strict=True)
    ]
    return Curves(
        "Accuracy of the clips of each confidence bin (larger points have more clips)",
        f"Reliability diagram; the calibration error is {100 * calibration['ece_calibrated']:.1f} points.",
        figures.percent_axis("confidence (%)", []),
        figures.percent_axis("accuracy (%)", []),
        (
            Series("perfect", ((0, 0), (100, 100)), GREY, dashed=True, symbol=""),
            Series(
                "this file",
                points,
                BLUE,
                sizes=tuple(round(3 + 9 * (one["clips"] / most) ** 0.5, 1) for one in bins),
                tips=tuple(tips),
            ),
        ),
    )

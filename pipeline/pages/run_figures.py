"""Figures over runs: accuracy by run, by epoch, by set of statistics, and where it is lost."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.pages import figures
from pipeline.pages.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    RED,
    Bar,
    Curves,
    Key,
    Line,
    Rows,
    Series,
    hundred,
    move,
    percent,
    signed,
)
from pipeline.pages.finished import FinishedRun


def arms_figure(runs: list[FinishedRun]) -> Rows:
    """Draw training and evaluation accuracy of each run."""
    splits = sorted({run.eval_split for run in runs})
    rows = [
        Line(
            run.name,
            ((_bar(run.train_top1, GREY),), (_bar(run.eval_top1, BLUE),)),
            run.settings if run.origin == "trained" else run.origin,
        )
        for run in runs
    ]
    alt = "; ".join(f"{run.name}: {move(run.train_top1, run.eval_top1)}" for run in runs)
    return Rows(
        "Training and evaluation accuracy of each run",
        f"Bars, training to evaluation accuracy. {alt}.",
        figures.percent_axis("accuracy (%)", []),
        tuple(rows),
        (Key("training", GREY, "bar"), Key(f"{' or '.join(splits)} (unseen)", BLUE, "bar")),
    )


def _bar(value: float, colour: str) -> Bar:
    return Bar(0.0, 100 * value, colour, f"{100 * value:.0f}")


def waterfall_figure(name: str, four: dict[str, float], gap: dict[str, float], split: str = "evaluation") -> Rows:
    """Draw the way from B to C: the normalization gap, the generalization gap, and their joint effect.

    Args:
        name: Name of the run.
        four: Accuracies A to D.
        gap: Normalization gap, and generalization gap where there are evaluation clips.
        split: Split of C and D.
    """
    end = four.get("C", four["A"])
    steps = {
        "normalization gap (B − A)": -gap["normalization"],
        "generalization gap (B − D)": -gap.get("generalization", 0.0),
    }
    steps["both at once"] = end - four["B"] - sum(steps.values())
    here = 100 * four["B"]
    rows = [Line("B: training clips, batch statistics", ((Bar(0.0, here, BLUE, f"{here:.1f}"),),))]
    for step, change in steps.items():
        there = here + 100 * change
        colour = RED if change < 0 else GREEN
        rows.append(Line(step, ((Bar(here, there, colour, signed(100 * change)),),)))
        here = there
    last = f"C: {split} clips, running statistics" if "C" in four else "A: training clips, running statistics"
    rows.append(Line(last, ((Bar(0.0, 100 * end, BLUE, f"{100 * end:.1f}"),),)))
    alt = (
        f"Waterfall from {100 * four['B']:.1f} % (B) through the normalization gap of {100 * gap['normalization']:.1f} "
        f"points to {100 * end:.1f} %."
    )
    ends = [bar.end for row in rows for bar in row.lanes[0] if isinstance(bar, Bar)]
    low = min(0.0, *ends)
    room = 0.14 * (max(ends) - low)  # for numbers left of the bars
    return Rows(
        f"Where “{name}” loses accuracy",
        alt,
        figures.axis("accuracy (%)", ends, low=low - room if low < 0 else 0.0, high=max(100.0, *ends)),
        tuple(rows),
    )


def curves_figure(runs: Sequence[FinishedRun]) -> Curves:
    """Draw training accuracy (dotted) and accuracy with running statistics (solid) by epoch.

    Repaired runs were not trained: their curves are those of the runs that they repair.
    """
    trained = [run for run in runs if not run.repaired] or list(runs)
    series = []
    for place, run in enumerate(trained):
        colour = COLOURS[place % len(COLOURS)]
        measured = [line for line in run.lines if "accuracies" in line]
        train = hundred(line["train"]["top1"] for line in run.lines)
        running = hundred(line["accuracies"].get("C", line["accuracies"]["A"]) for line in measured)
        epochs, at = ([line["epoch"] for line in lines] for lines in (run.lines, measured))
        name = f"“{run.name}”, {'C, held-out subjects' if run.summary['val'] else 'A'}"
        series += [
            Series(f"“{run.name}”, training", tuple(zip(epochs, train, strict=True)), colour, dashed=True, symbol=""),
            Series(name, tuple(zip(at, running, strict=True)), colour, symbol="diamond"),
        ]
    return Curves(
        "Accuracy by epoch",
        f"Curves of {len(trained)} runs: training accuracy dotted, accuracy with running statistics solid.",
        figures.epoch_axis([line["epoch"] for run in trained for line in run.lines]),
        figures.percent_axis("accuracy (%)", []),
        tuple(series),
        height=340,
    )


def recalibration_figure(run: FinishedRun) -> Rows | None:
    """Draw the accuracy of one trained model under several sets of statistics; None without a diagnosis of it."""
    if not run.doctor or not run.doctor["recalibration"]:
        return None
    after = run.doctor["recalibration"]
    bars = {
        "running": run.doctor["accuracies"],
        "one set per layer": after["joint"],
        "of present bodies": after["masked"],
        "one set per call": after["per_call"],
    }
    rows = [
        Line(name, tuple((_bar(values[key], colour),) for key, colour in (("A", GREY), ("C", BLUE)) if key in values))
        for name, values in bars.items()
    ]
    pairs = ", ".join(f"{name} {percent(values.get('C', values.get('A')))}" for name, values in bars.items())
    keys = (Key("A, training clips", GREY, "bar"), Key(f"C, {run.doctor['judged']} clips", BLUE, "bar"))
    return Rows(
        f"“{run.name}” with other statistics, nothing retrained",
        f"Bars of accuracy by statistics: {pairs}.",
        figures.percent_axis("accuracy (%)", []),
        tuple(rows),
        keys if any("C" in values for values in bars.values()) else keys[:1],
    )

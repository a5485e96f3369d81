"""Figures over runs: accuracy by run, by epoch, by set of statistics, and where it is lost."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from pipeline.pages.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    RED,
    Plot,
    epoch_axis,
    hundred,
    label,
    labels,
    move,
    percent,
    plot,
)
from pipeline.pages.finished import FinishedRun


def arms_figure(runs: list[FinishedRun]) -> Plot:
    """Draw training and evaluation accuracy of each run."""
    splits = sorted({run.eval_split for run in runs})
    pairs = (
        ("training", GREY, [run.summary["train"]["top1"] for run in runs]),
        (f"{' or '.join(splits)} (unseen)", BLUE, [run.eval_top1 for run in runs]),
    )
    names = labels([run.name for run in runs])
    figure = go.Figure(
        [
            go.Bar(name=name, x=names, y=hundred(y), marker_color=colour, text=[f"{100 * v:.0f}" for v in y])
            for name, colour, y in pairs
        ]
    )
    figure.update_traces(textposition="outside", cliponaxis=False)
    alt = "; ".join(f"{run.name}: {move(run.summary['train']['top1'], run.eval_top1)}" for run in runs)
    return plot(
        figure,
        "Training and evaluation accuracy of each run",
        f"Bars, training to evaluation accuracy. {alt}.",
        barmode="group",
        yaxis={"range": [0, 112], "title": "accuracy (%)"},
        xaxis={"type": "category"},
    )


def waterfall_figure(name: str, four: dict[str, float], gap: dict[str, float]) -> Plot:
    """Draw the way from B to C: the normalization gap, the generalization gap, and their joint effect."""
    end = four.get("C", four["A"])
    steps = [four["B"], -gap["normalization"], -gap.get("generalization", 0.0)]
    together = end - sum(steps)
    values = [*steps, together]
    names = [
        "B: training clips,<br>batch statistics",
        "normalization gap<br>(B − A)",
        "generalization gap<br>(B − D)",
        "both at once",
        "C: evaluation clips,<br>running statistics" if "C" in four else "A: training clips,<br>running statistics",
    ]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            y=names,
            x=hundred([*values, 0.0]),
            measure=["absolute", "relative", "relative", "relative", "total"],
            text=[f"{100 * v:+.1f}" if i else f"{100 * v:.1f}" for i, v in enumerate(values)] + [f"{100 * end:.1f}"],
            textposition="outside",
            cliponaxis=False,
            decreasing_marker_color=RED,
            increasing_marker_color=GREEN,
            totals_marker_color=BLUE,
            connector_line_color=GREY,
            connector_line_width=1,
        )
    )
    alt = (
        f"Waterfall from {100 * four['B']:.1f} % (B) through the normalization gap of {100 * gap['normalization']:.1f} "
        f"points to {100 * end:.1f} %."
    )
    # Room for the numbers outside the bars.
    running = np.cumsum(values)
    low, high = min(0.0, *running), max(*running, end)
    room = 0.16 * (high - low) + 0.02
    return plot(
        figure,
        f"Where “{name}” loses accuracy",
        alt,
        showlegend=False,
        yaxis={"autorange": "reversed"},
        xaxis={"title": "accuracy (%)", "range": [100 * (low - (room if low < 0 else 0)), 100 * (high + room)]},
    )


def curves_figure(runs: list[FinishedRun]) -> Plot:
    """Draw training accuracy (dotted) and accuracy with running statistics (solid) by epoch."""
    figure = go.Figure()
    for place, run in enumerate(runs):
        colour = COLOURS[place % len(COLOURS)]
        measured = [line for line in run.lines if "accuracies" in line]
        figure.add_scatter(
            x=[line["epoch"] for line in run.lines],
            y=hundred([line["train"]["top1"] for line in run.lines]),
            mode="lines+markers",
            line={"dash": "dot", "color": colour},
            name=f"{label(run.name)}, training",
        )
        figure.add_scatter(
            x=[line["epoch"] for line in measured],
            y=hundred([line["accuracies"].get("C", line["accuracies"]["A"]) for line in measured]),
            mode="lines+markers",
            marker={"size": 9, "symbol": "diamond"},
            line={"color": colour},
            name=f"{label(run.name)}, {'C, held-out subjects' if run.summary['val'] else 'A'}",
        )
    alt = f"Curves of {len(runs)} runs: training accuracy dotted, accuracy with running statistics solid."
    return plot(
        figure,
        "Accuracy by epoch",
        alt,
        height=400 + 14 * len(runs),
        xaxis=epoch_axis([line["epoch"] for run in runs for line in run.lines]),
        yaxis={"title": "accuracy (%)", "rangemode": "tozero"},
    )


def recalibration_figure(run: FinishedRun) -> Plot | None:
    """Draw the accuracy of one trained model under several sets of statistics; None without a diagnosis of it."""
    if not run.doctor or not run.doctor["recalibration"]:
        return None
    after = run.doctor["recalibration"]
    bars = {
        "running": run.doctor["accuracies"],
        "joint": after["joint"],
        "masked": after["masked"],
        "per call": after["per_call"],
    }
    figure = go.Figure()
    for key, name, colour in (("A", "training clips", GREY), ("C", f"{run.doctor['judged']} clips", BLUE)):
        y = [values.get(key) for values in bars.values()]
        shown = ["" if v is None else f"{100 * v:.0f}" for v in y]
        figure.add_bar(name=name, x=list(bars), y=hundred(y), marker_color=colour, text=shown)
    figure.update_traces(textposition="outside", cliponaxis=False)
    pairs = ", ".join(f"{name} {percent(values.get('C', values.get('A')))}" for name, values in bars.items())
    return plot(
        figure,
        f"“{run.name}” recalibrated, nothing retrained",
        f"Bars of accuracy by statistics: {pairs}.",
        barmode="group",
        yaxis={"range": [0, 112], "title": "accuracy (%)"},
        xaxis={"title": "statistics"},
    )

"""Values of the doctor's page: verdict, where accuracy goes, which layers drift, what helps. All from doctor.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.normdoctor.moments import RATIO_LIMIT, SHIFT_LIMIT
from pipeline.normdoctor.remedies import REMEDIES
from pipeline.pages import TERMS, render
from pipeline.pages.figures import BLUE, GREY, RED, Plot, hundred, labels, move, plot, plotly_script
from pipeline.pages.run_figures import waterfall_figure
from preprocessing import pages
from preprocessing.pages import Box, Provenance, Row, Table, number, text

LAYER_TERMS = (
    ("Values per statistic", "How many numbers one mean of a training batch averages over."),
    ("Updates", "How often the running statistics were updated in training."),
    ("Window", "How many past updates the running statistics remember: about 1 / momentum."),
    ("Absent rows", "Share of a call's rows that are bodies or frames that are not there."),
    ("Shift", "Distance of the running mean from the mean over many samples, in standard deviations."),
    ("Ratio", "Running variance against the variance over many samples, the larger over the smaller."),
)


def page(name: str, doctor: dict[str, Any], provenance: Provenance) -> str:
    """Return the doctor's page as text.

    Args:
        name: Name of the run.
        doctor: Content of doctor.json.
        provenance: For the footer.
    """
    sites = doctor["layers"]
    return render(
        "diagnosis.html",
        provenance,
        kind="doctor",
        title=f"{name}: {headline(doctor)}",
        subtitle=setting(doctor),
        verdict=doctor["verdict"],
        boxes=boxes(doctor),
        trainings=trainings(doctor),
        waterfall=waterfall_figure(name, doctor["accuracies"], doctor["gap"]),
        remedies=remedies_figure(doctor) if doctor["recalibration"] else None,
        drifts=[drift_figure(sites, "shift"), drift_figure(sites, "ratio")] if sites else [],
        layers=layers_table(sites) if sites else None,
        groups=groups_table(doctor) if any(doctor["groups"].values()) else None,
        fired=[(check, about(check), words) for check, words in doctor["checks"].items() if words],
        silent=[(check, about(check)) for check, words in doctor["checks"].items() if not words],
        terms=TERMS + LAYER_TERMS,
        plotly=plotly_script(),
    )


def headline(doctor: dict[str, Any]) -> str:
    """Return the main result in a few words."""
    gap = 100 * doctor["gap"].get("own_batches", doctor["gap"]["normalization"])
    if doctor["causes"]:
        first = doctor["causes"][0]
        share = f", {100 * first['recovered']:.0f} % of a normalization gap of {gap:.1f} points"
        return first["check"] + ("" if first["check"] == "mode" else share)
    if gap > 100 * doctor["threshold"]:
        suspected = ", ".join(entry["check"] for entry in doctor["suspicions"])
        return f"{gap:.1f} points of normalization gap, {f'suspected: {suspected}' if suspected else 'unexplained'}"
    return "no normalization gap" if doctor["layers"] else "no batch norm"


def setting(doctor: dict[str, Any]) -> str:
    """Return the measured clips and the gap with its interval in one line."""
    low, high = (100 * bound for bound in doctor["intervals"]["normalization"])
    clips = doctor["samples"]
    evaluated = f"{clips['eval']} {doctor['judged']}" if clips["eval"] else "no evaluation"
    gap = 100 * doctor["gap"]["normalization"]
    return (
        f"{clips['train']} training and {evaluated} clips; normalization gap {gap:.1f} points "
        f"(95 % interval {low:.1f} to {high:.1f}; it counts above {100 * doctor['threshold']:.1f})"
    )


def boxes(doctor: dict[str, Any]) -> list[Box]:
    """Return one box per cause, suspicion, other finding, repair, and remedy proven by training."""
    made = [
        _finding(kind, entry, doctor["judged"])
        for kind, entries in (
            ("cause", doctor["causes"]),
            ("suspicion", doctor["suspicions"]),
            ("rest", doctor["rest"]),
        )
        for entry in entries
    ]
    if doctor.get("fix"):
        fix = doctor["fix"]
        before, after = (fix[key]["accuracies"] for key in ("before", "after"))
        key = "C" if "C" in before else "A"
        split = fix.get("eval", "evaluation") if key == "C" else "training"
        words = (
            f"{split} clips, nothing retrained. Statistics: {_statistics(fix['remedy'])}. In {Path(fix['out']).name}."
        )
        made.append(Box("repaired", move(before[key], after[key], 1), words, "good"))
    helpful = {name: entry for name, entry in doctor.get("fine_tune", {}).items() if entry["helps"]}
    if helpful:
        name = max(helpful, key=lambda one: helpful[one]["after"]["C"])
        entry = helpful[name]
        words = f"{doctor['judged']} clips, {entry['epochs']} epochs. {entry['advice']}"
        figure = move(entry["before"]["C"], entry["after"]["C"], 1)
        made.append(Box(f"proven by training a copy: {name}", figure, words, "good"))
    return made


def _finding(kind: str, entry: dict[str, Any], split: str) -> Box:
    figure, words = "", f"Remedy: {entry['remedy']}."
    if "before" in entry and entry["after"] != entry["before"]:
        low, high = (100 * bound for bound in entry["interval"])
        figure = move(entry["before"], entry["after"], 1)
        words = f"{split} clips, nothing retrained (95 % interval of the gain {low:+.1f} to {high:+.1f}). {words}"
    title = f"no normalization gap: {entry['check']}" if kind == "rest" else f"{kind}: {entry['check']}"
    return Box(title, figure, words, "bad" if kind == "cause" else "plain")


def _statistics(remedy: str) -> str:
    return REMEDIES[remedy].label if remedy in REMEDIES else remedy


def trainings(doctor: dict[str, Any]) -> list[str]:
    """Return what short trainings of a copy brought, where they were asked for."""
    entries = [doctor["probe_lr"]] if "probe_lr" in doctor else []
    return [entry["text"] for entry in (*entries, *doctor.get("fine_tune", {}).values())]


def remedies_figure(doctor: dict[str, Any]) -> Plot:
    """Draw the accuracy under each set of statistics, with the 95 % interval of its gain."""
    figure, table = go.Figure(), doctor["recalibration"]
    for key, legend, colour in (("A", "training clips", GREY), ("C", f"{doctor['judged']} clips", BLUE)):
        shown = {name: values for name, values in table.items() if key in values}
        if not shown:
            continue
        start = shown["eval"][key]
        y = [values[key] for values in shown.values()]
        ends = [[start + bound for bound in values["gain"][key]] for values in shown.values()]
        # Points, not bars: the number stands above its point, where no whisker runs through it.
        figure.add_scatter(
            name=legend,
            x=hundred(y),
            y=[REMEDIES[name].label for name in shown],
            orientation="h",
            offsetgroup=key,
            mode="markers+text",
            marker={"color": colour, "size": 10},
            text=[f"{100 * value:.1f}" for value in y],
            textposition="top center",
            cliponaxis=False,
            error_x={
                "array": hundred([max(0.0, high - value) for value, (_, high) in zip(y, ends, strict=True)]),
                "arrayminus": hundred([max(0.0, value - low) for value, (low, _) in zip(y, ends, strict=True)]),
            },
        )
    rows = ", ".join(
        f"{REMEDIES[name].label} {100 * values.get('C', values.get('A', 0)):.1f} %" for name, values in table.items()
    )
    return plot(
        figure,
        "Before and after, nothing retrained (whiskers: 95 % interval of the gain)",
        f"Accuracy by set of statistics: {rows}.",
        height=110 + 62 * len(table),
        scattermode="group",
        scattergap=0.25,
        xaxis={"title": "accuracy (%)", "range": [-4, 108]},
        yaxis={"autorange": "reversed", "type": "category"},
    )


def drift_figure(sites: list[dict[str, Any]], key: str) -> Plot:
    """Draw running against population statistics of every call site.

    Args:
        sites: `layers` of doctor.json.
        key: `shift` of the mean, or `ratio` of the variance.
    """
    names = labels([f"{entry['layer']} · {entry['call'] + 1}" for entry in sites])
    figure = go.Figure()
    for where, legend, colour in (("train", "training clips", GREY), ("eval", "evaluation clips", BLUE)):
        values = [entry.get(where, {}).get(key) for entry in sites]
        figure.add_bar(name=legend, y=names, x=values, orientation="h", marker_color=colour)
    bound, title, unit = {
        "shift": (SHIFT_LIMIT, "Shift of the running mean", "standard deviations"),
        "ratio": (RATIO_LIMIT, "Ratio of the variances", "larger / smaller, log scale"),
    }[key]
    figure.add_vline(x=bound, line_dash="dot", line_color=RED)
    values = [entry[where][key] for entry in sites for where in ("train", "eval") if where in entry]
    axis: dict[str, Any] = {"title": unit, "rangemode": "tozero"}
    if key == "ratio":  # bars of a logarithmic axis start at 1: no difference
        ticks = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
        axis = {
            "title": unit,
            "type": "log",
            "range": [0, 1.05 * math.log10(max([*values, 2 * bound]))],
            "tickvals": ticks,
        }
    largest = max(sites, key=lambda entry: entry.get("train", {}).get(key) or 0.0)
    alt = f"Bars per call site; the largest on training clips is {largest['layer']}, call {largest['call'] + 1}."
    return plot(
        figure,
        f"{title} (dotted: from where it counts)",
        alt,
        height=130 + 34 * len(sites),
        barmode="group",
        xaxis=axis,
        yaxis={"autorange": "reversed", "type": "category"},
    )


def layers_table(sites: list[dict[str, Any]]) -> Table:
    """Return what each call site remembers and from how much."""
    notes = dict(LAYER_TERMS)
    columns = (
        text("layer"),
        number("call"),
        number("values per statistic", form=",.0f", note=notes["Values per statistic"]),
        number("updates", note=notes["Updates"]),
        number("window", "updates", ".0f", notes["Window"]),
        pages.percent("absent rows", notes["Absent rows"], ".0f"),
        text("numbers"),
    )
    rows = [
        Row(
            (
                e["layer"],
                e["call"] + 1,
                e["values_per_statistic"],
                e["updates"],
                e["window"],
                e["absent"],
                e["dtype"].removeprefix("torch."),
            )
        )
        for e in sites
    ]
    return Table("Running statistics of each call site", columns, tuple(rows))


def groups_table(doctor: dict[str, Any]) -> Table:
    """Return accuracy and input shift by camera and subject."""
    columns = (
        text("evaluation clips of"),
        number("clips"),
        pages.percent("C"),
        number("input shift", "standard deviations from training", ".2f"),
    )
    rows = tuple(
        Row((f"{division} {group}", clips, accuracy, moved))
        for division, table in doctor["groups"].items()
        for group, (clips, accuracy, moved) in table.items()
    )
    return Table("Evaluation clips by group", columns, rows)


def about(check: str) -> str:
    """Return what a check looks for."""
    return (CHECKS | REST)[check].label

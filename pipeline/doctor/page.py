"""The diagnosis as one self-contained page (no network): verdict, where accuracy goes, which layers drift, what helps.

It draws doctor.json and computes nothing anew; style and charts are those of pipeline/page.py.
"""

from __future__ import annotations

import html
import textwrap
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline import page as pages
from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.normdoctor.moments import RATIO_LIMIT, SHIFT_LIMIT
from pipeline.normdoctor.remedies import REMEDIES

GREY, BLUE = "#aab7b8", "#2471a3"


def page(name: str, doctor: dict[str, Any]) -> str:
    """The whole page as text, from what stands in doctor.json."""
    title = html.escape(f"{name}: {headline(doctor)}")
    pictures = pages.div(pages.waterfall_figure(name, doctor["accuracies"], doctor["gap"]))
    if doctor["recalibration"]:
        pictures += pages.div(remedies_figure(doctor))
    parts = [
        f"<h1>{title}</h1><p class=sub>{html.escape(setting(doctor))}</p>",
        f"<p>{html.escape(doctor['verdict'])}</p>{boxes(doctor)}{trainings(doctor)}",
        f"<div class=two>{pictures}</div><p class=note>{pages.LEGEND}</p>",
    ]
    if doctor["layers"]:
        parts.append(f"<h2>Layer by layer</h2>{pages.div(drift_figure(doctor))}{layers_table(doctor)}")
    return pages.document(title, [*parts, groups_table(doctor), checks_list(doctor)])


def headline(doctor: dict[str, Any]) -> str:
    """What a person reads first."""
    gap = 100 * doctor["gap"]["normalization"]
    if doctor["causes"]:
        first = doctor["causes"][0]
        share = f", {100 * first['recovered']:.0f} % of a normalization gap of {gap:.1f} points"
        return first["check"] + ("" if first["check"] == "mode" else share)
    if gap > 100 * doctor["threshold"]:
        return f"{gap:.1f} points of normalization gap, unexplained"
    return "no normalization gap" if doctor["layers"] else "no batch norm"


def setting(doctor: dict[str, Any]) -> str:
    """What was measured, in one line."""
    low, high = (100 * bound for bound in doctor["intervals"]["normalization"])
    clips = doctor["samples"]
    on = f"{clips['eval']} {doctor['judged']}" if clips["eval"] else "no evaluation"
    gap = 100 * doctor["gap"]["normalization"]
    return (
        f"{clips['train']} training and {on} clips; normalization gap {gap:.1f} points "
        f"(95 % interval {low:.1f} to {high:.1f}; it counts above {100 * doctor['threshold']:.1f})"
    )


def boxes(doctor: dict[str, Any]) -> str:
    """One box a cause, suspicion or other finding: what, and what to do."""
    made = []
    for kind, entries in (("cause", doctor["causes"]), ("suspicion", doctor["suspicions"]), ("rest", doctor["rest"])):
        for entry in entries:
            figure = ""
            if "before" in entry and entry["after"] != entry["before"]:
                low, high = (100 * bound for bound in entry["interval"])
                figure = from_to(entry["before"], entry["after"])
                figure += f"evaluation, nothing retrained (gain {low:+.1f} to {high:+.1f}). "
            colour = "bad" if kind == "cause" else ""
            head = f"{kind}: {entry['check']}" if kind != "rest" else f"no normalization gap: {entry['check']}"
            made.append(f"<div class='{colour}'><h3>{head}</h3>{figure}{html.escape(entry['remedy'])}</div>")
    if doctor.get("fix"):
        before, after = (doctor["fix"][key]["accuracies"] for key in ("before", "after"))
        key = "C" if "C" in before else "A"
        on = doctor["fix"].get("eval", "evaluation") if key == "C" else "training"
        made.append(
            f"<div class=good><h3>repaired</h3>{from_to(before[key], after[key])}{on} clips. "
            f"{html.escape(doctor['fix']['remedy'])}: {html.escape(Path(doctor['fix']['out']).name)}</div>"
        )
    helpful = {name: entry for name, entry in doctor.get("fine_tune", {}).items() if entry["helps"]}
    if helpful:
        name = max(helpful, key=lambda one: helpful[one]["after"]["C"])
        entry = helpful[name]
        made.append(
            f"<div class=good><h3>proven by training a copy: {name}</h3>"
            f"{from_to(entry['before']['C'], entry['after']['C'])}"
            f"evaluation, {entry['epochs']} epochs. {html.escape(entry['advice'])}</div>"
        )
    return f"<div class=answer>{''.join(made)}</div>" if made else ""


def from_to(before: float, after: float) -> str:
    """Two accuracies as a box's large figure."""
    return f"<b class=figure>{100 * before:.1f} → {100 * after:.1f} %</b>"


def trainings(doctor: dict[str, Any]) -> str:
    """What short trainings of a copy brought, where they were asked for."""
    entries = [doctor["probe_lr"]] if "probe_lr" in doctor else []
    entries += doctor.get("fine_tune", {}).values()
    items = "".join(f"<li>{html.escape(entry['text'])}</li>" for entry in entries)
    return f"<h3>Trained on, a copy</h3><ul>{items}</ul>" if items else ""


def remedies_figure(doctor: dict[str, Any]) -> go.Figure:
    """Accuracy under each set of statistics, with the 95 % interval of its gain."""
    figure, table = go.Figure(), doctor["recalibration"]
    for key, legend, colour in (("A", "train clips", GREY), ("C", "evaluation clips", BLUE)):
        shown = {name: values for name, values in table.items() if key in values}
        if not shown:
            continue
        start = shown["eval"][key]
        y = [values[key] for values in shown.values()]
        ends = [[start + bound for bound in values["gain"][key]] for values in shown.values()]
        figure.add_bar(
            name=legend,
            x=["<br>".join(textwrap.wrap(REMEDIES[name].label, 14)) for name in shown],
            y=pages.hundred(y),
            marker_color=colour,
            text=[f"{100 * value:.0f}" for value in y],
            error_y={
                "array": pages.hundred([max(0.0, high - value) for value, (_, high) in zip(y, ends, strict=True)]),
                "arrayminus": pages.hundred([max(0.0, value - low) for value, (low, _) in zip(y, ends, strict=True)]),
            },
        )
    return pages.style(figure, "Before and after, nothing retrained (%)").update_layout(yaxis_range=[0, 115])


def drift_figure(doctor: dict[str, Any]) -> go.Figure:
    """Running against population statistics at every call site: shift of the mean, ratio of the variance."""
    figure = make_subplots(1, 2, subplot_titles=("shift of the mean, in standard deviations", "ratio of the variances"))
    sites = [f"{e['layer']} · {e['call'] + 1}" for e in doctor["layers"]]
    for where, legend, colour in (("train", "train clips", GREY), ("eval", "evaluation clips", BLUE)):
        for column, key in ((1, "shift"), (2, "ratio")):
            y = [entry.get(where, {}).get(key) for entry in doctor["layers"]]
            figure.add_bar(name=legend, x=sites, y=y, marker_color=colour, showlegend=column == 1, row=1, col=column)
    for column, bound in ((1, SHIFT_LIMIT), (2, RATIO_LIMIT)):
        figure.add_hline(y=bound, line_dash="dot", line_color="#c0392b", row=1, col=column)
    figure.update_yaxes(type="log", row=1, col=2)
    title = "How far running statistics are from what each call of a layer sees (dotted: where it starts to count)"
    figure = pages.style(figure, title).update_layout(barmode="group", height=430, margin={"t": 80, "b": 110})
    return figure.update_layout(legend_y=-0.45, title_y=0.97)


def layers_table(doctor: dict[str, Any]) -> str:
    """What each call site remembers and from how much."""
    head = "<tr><th>layer<th>call<th>values a statistic<th>updates<th>window (updates)<th>absent rows<th>numbers"
    body = ""
    for e in doctor["layers"]:
        absent = "" if e["absent"] is None else f"{100 * e['absent']:.0f} %"
        body += (
            f"<tr><td>{html.escape(e['layer'])}<td>{e['call'] + 1}<td>{e['values_per_statistic']:.0f}<td>{e['updates']}"
            f"<td>{e['window']:.0f}<td>{absent}<td>{e['dtype'].removeprefix('torch.')}</tr>"
        )
    return f"<div class=scroll><table>{head}</tr>{body}</table></div>"


def groups_table(doctor: dict[str, Any]) -> str:
    """Accuracy and input shift by camera and subject."""
    rows = "".join(
        f"<tr><td>{html.escape(division)} {group}<td>{clips}<td>{100 * score:.1f}<td>{moved:.2f}</tr>"
        for division, table in doctor["groups"].items()
        for group, (clips, score, moved) in table.items()
    )
    if not rows:
        return ""
    head = "<tr><th>evaluation clips of<th>clips<th>C (%)<th>input shift (standard deviations from training)</tr>"
    return f"<details><summary>By group</summary><div class=scroll><table>{head}{rows}</table></div></details>"


def checks_list(doctor: dict[str, Any]) -> str:
    """Checks that saw something, and, folded away, those that did not."""
    known = CHECKS | REST

    def item(name: str, text: str) -> str:
        return f"<li><b>{name}</b> <span class=note>{html.escape(known[name].label)}</span> {html.escape(text)}</li>"

    seen = "".join(item(name, text) for name, text in doctor["checks"].items() if text)
    silent = "".join(item(name, text) for name, text in doctor["checks"].items() if not text)
    first = f"<h2>What the checks saw</h2><ul>{seen}</ul>" if seen else "<h2>No check saw anything</h2>"
    folded = f"<details><summary>Checks that saw nothing</summary><ul>{silent}</ul></details>" if silent else ""
    return first + folded

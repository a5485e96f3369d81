"""STUDY/report.html: a search or a study on one page, no network; in the style of pipeline.page."""

from __future__ import annotations

import html
import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go

from pipeline.page import COLOURS, LEGEND, div, document, style
from preprocessing import files
from tuning.ledger import Outcome
from tuning.results import plus_minus
from tuning.space import SPACE, Choice

SIGNIFICANT = 0.05


def write_study(study: Path, command: dict[str, Any], document_: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Publish the page of a study of arms."""
    arms, judged, baseline = document_["arms"], document_["judged"], document_["baseline"]
    title = html.escape(headline(arms, judged, baseline))
    n = max(row["n"] for row in arms)
    sub = (
        f"{Path(command['data']).name}: {len(arms)} arms, up to {n} seeds each, {command['epochs']} epochs. Effects on "
        f"the {judged} split, paired by seed, against “{baseline}”; arms in the order of their accuracy on held-out "
        "training subjects."
    )
    parts = [
        f"<h1>{title}</h1><p class=sub>{html.escape(sub)}</p>{boxes(arms, judged, baseline)}",
        div(forest_figure(arms, judged, baseline)),
        f"<h2>Leaderboard</h2>{arms_table(arms, judged)}<p class=note>{NOTE}</p>",
        f"<h2>The gap of each arm</h2>{div(gap_figure(arms))}<p class=note>{LEGEND}</p>",
        f"<h2>Learning curves</h2>{div(arm_curves_figure(outcomes))}",
        _failures(outcomes),
        _command("tuning.study", command),
    ]
    files.publish_text(study / "report.html", document(title, parts))


NOTE = (
    "Mean ± standard deviation over seeds, in %. Effect: mean difference to the baseline, paired by seed, with the "
    "95 % interval and the p value of Student's paired t-test; p is also corrected for the number of arms after Holm."
)


def _helps(row: dict[str, Any]) -> bool:
    return row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT and row["effect"] > 0


def headline(arms: list[dict[str, Any]], judged: str, baseline: str) -> str:
    """One sentence a person reads first."""
    others = [row for row in arms if row["effect"] is not None]
    helping = [row for row in others if _helps(row)]
    if not others:
        return "No arm has a seed in common with the baseline yet"
    if not helping:
        return f"No arm is shown to differ for the better from “{baseline}” on {judged}"
    best = max(helping, key=lambda row: row["effect"])
    return f"{len(helping)} of {len(others)} arms help; “{best['arm']}” by {100 * best['effect']:+.0f} points"


def boxes(arms: list[dict[str, Any]], judged: str, baseline: str) -> str:
    """The three boxes: where it starts, what helps, what is not shown to."""
    plain = next(row for row in arms if row["arm"] == baseline)
    start = f"<b class=figure>{_pct(plain['train'])} → {_pct(plain[judged])}</b>training → {judged} accuracy of "
    start += f"<b>{html.escape(baseline)}</b>, mean of {plain['n']}"
    helping = sorted((r for r in arms if _helps(r)), key=lambda r: -r["effect"])
    rest = sorted((r for r in arms if r["effect"] is not None and not _helps(r)), key=lambda r: -r["effect"])
    return (
        f"<div class=answer><div class=bad><h3>Where it starts</h3>{start}</div>"
        f"<div class=good><h3>What helps</h3>{_list(helping) or 'Nothing that these seeds can show.'}</div>"
        f"<div><h3>Not shown to help</h3>{_list(rest) or 'No arm.'}</div></div>"
    )


def _list(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        more = " (same bits)" if row.get("identical") else ""
        lines.append(f"{html.escape(row['arm'])} <b>{100 * row['effect']:+.1f}</b>{more}")
    return "<br>".join(lines)


def forest_figure(arms: list[dict[str, Any]], judged: str, baseline: str) -> go.Figure:
    """Effect of each arm with its interval."""
    rows = sorted((row for row in arms if row["effect"] is not None), key=lambda row: row["effect"])
    intervals = [row["interval"] or (row["effect"], row["effect"]) for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=[100 * row["effect"] for row in rows],
            y=[row["arm"] for row in rows],
            mode="markers",
            marker={"size": 9, "color": ["#1e8449" if _helps(row) else "#7f8c8d" for row in rows]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (i[1] - row["effect"]) for row, i in zip(rows, intervals, strict=True)],
                "arrayminus": [100 * (row["effect"] - i[0]) for row, i in zip(rows, intervals, strict=True)],
            },
        )
    )
    figure = style(figure, f"Effect on {judged} accuracy against “{baseline}” (points; green: p < .05 after Holm)")
    figure.add_vline(x=0, line_color="#c0392b", line_width=1)
    return figure.update_layout(height=120 + 24 * len(rows), margin_l=190, showlegend=False)


def arms_table(arms: list[dict[str, Any]], judged: str) -> str:
    """Every figure of every arm."""
    columns = ["train", "val"] + (["test"] if judged == "test" else [])
    head = "<tr><th>arm<th>n" + "".join(f"<th>{name}" for name in columns)
    head += "<th>effect<th>95 %<th>p<th>p, Holm<th>A<th>B<th>C<th>D<th>norm. gap<th>failed</tr>"
    body = ""
    for row in arms:
        cells = [str(row["n"]), *(plus_minus(row[name], row[f"{name}_std"]) for name in columns)]
        cells.append("" if row["effect"] is None else f"{100 * row['effect']:+.1f}")
        cells.append(
            "" if row["interval"] is None else f"{100 * row['interval'][0]:+.1f} to {100 * row['interval'][1]:+.1f}"
        )
        cells += ["" if row[name] is None else f"{row[name]:.2g}" for name in ("p", "p_holm")]
        cells += ["" if row[name] is None else f"{100 * row[name]:.1f}" for name in (*"ABCD", "normalization_gap")]
        cells.append(str(row["failed"] or ""))
        body += f"<tr><td>{html.escape(row['arm'])}" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"
    return f"<div class=scroll><table>{head}{body}</table></div>"


def gap_figure(arms: list[dict[str, Any]]) -> go.Figure:
    """A to D of each arm, a line between the two that the normalization gap is between."""
    rows = [row for row in reversed(arms) if row["n"]]
    names = [row["arm"] for row in rows]
    figure = go.Figure()
    for row in rows:
        figure.add_scatter(
            x=[100 * row["A"], 100 * row["B"]], y=[row["arm"]] * 2, mode="lines", showlegend=False,
            line={"color": "#e6b0aa", "width": 6}, hoverinfo="skip",
        )  # fmt: skip
    kinds = (
        ("A", "A train, running", "circle", "#c0392b"),
        ("B", "B train, batch", "circle-open", "#c0392b"),
        ("C", "C evaluation, running", "diamond", "#2471a3"),
        ("D", "D evaluation, batch", "diamond-open", "#2471a3"),
    )
    for key, name, symbol, colour in kinds:
        x = [None if row[key] is None else 100 * row[key] for row in rows]
        figure.add_scatter(
            x=x, y=names, mode="markers", name=name, marker={"symbol": symbol, "size": 10, "color": colour}
        )
    figure = style(figure, "A to D (%, mean over seeds); the bar is the normalization gap")
    return figure.update_layout(
        height=150 + 24 * len(rows), margin_l=190, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        margin_t=80, title_y=0.98,
    )  # fmt: skip


def arm_curves_figure(outcomes: list[Outcome]) -> go.Figure:
    """Accuracy on held-out subjects by epoch, mean over seeds."""
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        for figures in outcome.curve:
            points[outcome.task.arm][int(figures["epoch"])].append(100 * (figures["val"] or 0.0))
    figure = go.Figure()
    for number, (arm, curve) in enumerate(points.items()):
        epochs = sorted(curve)
        figure.add_scatter(
            x=epochs, y=[sum(curve[epoch]) / len(curve[epoch]) for epoch in epochs], name=arm, mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]},
        )  # fmt: skip
    return style(figure, "Accuracy C on held-out training subjects by epoch (%, mean over seeds)").update_layout(
        xaxis_title="epoch", height=480, legend={"orientation": "v", "x": 1.02, "y": 1}
    )


DASHES = ("solid", "dash", "dot", "dashdot")


def write_search(study: Path, command: dict[str, Any], outcomes: list[Outcome]) -> None:
    """Publish the page of a search."""
    good = [outcome for outcome in outcomes if outcome.outcome != "failed" and outcome.curve]
    good.sort(key=lambda outcome: -outcome.last["val"])
    title = "No trial has finished yet"
    if good:
        settings = good[0].task.settings
        title = f"Best of {len(outcomes)} settings: {100 * good[0].last['val']:.1f} % on held-out subjects, "
        title += f"norm {settings['norm.kind']}, persons {settings['norm.persons']}"
    title = html.escape(title)
    stopped = sum(outcome.outcome == "stopped" for outcome in good)
    sub = (
        f"{Path(command['data']).name}: {len(outcomes)} trials, {stopped} stopped early by ASHA, "
        f"{len(outcomes) - len(good)} failed; up to {command['epochs']} epochs. Judged on held-out subjects of the "
        "training part; the test split was not read."
    )
    parts = [f"<h1>{title}</h1><p class=sub>{html.escape(sub)}</p>"]
    if good:
        parts += [
            f"<div class=scroll>{div(parallel_figure(good))}</div>",
            _importance(good),
            f"<h2>Leaderboard</h2>{trials_table(good)}<p class=note>{LEGEND}</p>",
            f"<h2>Each setting alone</h2>{div(slices_figure(good))}",
            f"<h2>Learning curves</h2>{div(trial_curves_figure(good))}",
        ]
    parts += [_failures(outcomes), _command("tuning.search", command)]
    files.publish_text(study / "report.html", document(title, parts))


def _values(name: str) -> list[Any]:
    axis = SPACE[name]
    return list(axis.values) if isinstance(axis, Choice) else []


def parallel_figure(good: list[Outcome]) -> go.Figure:
    """One line a trial through all its settings to its accuracy. `–`: the setting did not matter there."""
    dimensions = []
    for name in SPACE:
        drawn = [outcome.task.settings.get(name) for outcome in good]
        if all(value is None for value in drawn):
            continue
        values = _values(name)
        if values:
            texts = ["–" if None in drawn else "", *map(str, values)]
            places = [0 if value is None else 1 + values.index(value) for value in drawn]
            shown = [place for place, text in enumerate(texts) if text]
            dimensions.append(
                {"label": _short(name), "values": places, "tickvals": shown, "ticktext": [texts[i] for i in shown]}
            )
        else:
            known = [value for value in drawn if value is not None]
            low = min(known)
            dimensions.append(_log_dimension(name, [low if value is None else value for value in drawn]))
    colours = [100 * outcome.last["val"] for outcome in good]
    dimensions.append({"label": "val %", "values": colours})
    line = {"color": colours, "colorscale": "RdYlGn", "showscale": True}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelangle=-30, labelside="bottom"))
    return style(figure, "Settings and accuracy on held-out subjects (drag along an axis to select)").update_layout(
        height=520, width=1600, margin={"l": 70, "r": 30, "t": 60, "b": 110}, font_size=11
    )


def _log_dimension(name: str, values: list[float]) -> dict[str, Any]:
    import math

    logs = [math.log10(value) for value in values]
    ticks = [min(logs), (min(logs) + max(logs)) / 2, max(logs)]
    return {"label": _short(name), "values": logs, "tickvals": ticks, "ticktext": [f"{10**t:.2g}" for t in ticks]}


def _short(name: str) -> str:
    return name.split(".")[-1].replace("_", " ")


def _importance(good: list[Outcome]) -> str:
    """Which settings decide between the better tenth of trials and the rest; nothing is fatal, so words if it fails."""
    try:
        shares = importance(good)
    except (ValueError, RuntimeError, ImportError, ZeroDivisionError) as error:
        return f"<p class=note>No importance of settings: {html.escape(str(error).splitlines()[0])}</p>"
    if not shares:
        return "<p class=note>No importance of settings: too few trials.</p>"
    names = list(reversed(shares))
    figure = go.Figure(
        go.Bar(x=[100 * shares[name] for name in names], y=[_short(n) for n in names], orientation="h",
               marker_color="#2471a3")
    )  # fmt: skip
    return div(
        style(figure, "Importance of each setting for a good trial (%, PED-ANOVA)").update_layout(
            height=120 + 22 * len(names), margin_l=110
        )
    )


def importance(good: list[Outcome]) -> dict[str, float]:
    """Share of each setting, conditional ones included (Watanabe et al. 2023, arXiv 2304.10255), largest first."""
    study = optuna.create_study(direction="maximize")
    for outcome in good:
        settings = outcome.task.settings
        distributions = {name: _distribution(name) for name in settings}
        study.add_trial(
            optuna.trial.create_trial(params=settings, distributions=distributions, value=outcome.last["val"])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study))


def _distribution(name: str) -> Any:
    axis = SPACE[name]
    if isinstance(axis, Choice):
        return optuna.distributions.CategoricalDistribution(axis.values)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)


def slices_figure(good: list[Outcome]) -> go.Figure:
    """Accuracy over each setting, one point a trial that drew it."""
    from plotly.subplots import make_subplots

    names = [name for name in SPACE if any(name in outcome.task.settings for outcome in good)]
    columns = 4
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[_short(name) for name in names], vertical_spacing=0.45 / rows)
    for place, name in enumerate(names):
        those = [outcome for outcome in good if name in outcome.task.settings]
        discrete = bool(_values(name))
        x = [outcome.task.settings[name] for outcome in those]
        cell = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_scatter(
            x=[str(value) for value in x] if discrete else x, y=[100 * outcome.last["val"] for outcome in those],
            mode="markers", marker={"color": "#2471a3", "opacity": 0.6}, showlegend=False, **cell,
        )  # fmt: skip
        if discrete:
            order = [str(value) for value in _values(name)]
            figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, **cell)
        else:
            figure.update_xaxes(type="log", **cell)
    return style(figure, "").update_layout(height=260 * rows, margin_t=40)


def trial_curves_figure(good: list[Outcome]) -> go.Figure:
    """Accuracy by epoch of every trial, the best five named."""
    figure = go.Figure()
    for place, outcome in enumerate(good):
        name = f"{outcome.task.name}, {outcome.task.settings['norm.kind']}"
        colour = COLOURS[1 + place] if place < 5 else "#d5dbdb"
        figure.add_scatter(
            x=[figures["epoch"] for figures in outcome.curve], y=[100 * figures["val"] for figures in outcome.curve],
            name=name, mode="lines", line_color=colour, showlegend=place < 5,
        )  # fmt: skip
    return style(figure, "Accuracy C on held-out subjects by epoch (%)").update_layout(xaxis_title="epoch", height=420)


def trials_table(good: list[Outcome]) -> str:
    """The trials, best first; settings that did not matter stay empty."""
    names = [name for name in SPACE if any(name in outcome.task.settings for outcome in good)]
    figures = ("val", "A", "B", "C", "D", "normalization_gap")
    head = "<tr><th>trial<th>epochs" + "".join(f"<th>{n}" for n in ("val", "A", "B", "C", "D", "norm. gap"))
    head += "".join(f"<th>{_short(name)}" for name in names) + "</tr>"
    body = ""
    for outcome in good:
        epochs = f"{int(outcome.last['epoch'])}{' (stopped)' if outcome.outcome == 'stopped' else ''}"
        cells = [epochs, *(f"{100 * outcome.last[name]:.1f}" for name in figures)]
        cells += [_shown(outcome.task.settings.get(name)) for name in names]
        body += f"<tr><td>{outcome.task.name}" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"
    return f"<div class=scroll><table>{head}{body}</table></div>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if isinstance(value, float) else html.escape(str(value))


def _failures(outcomes: list[Outcome]) -> str:
    lines = [
        f"<li>{html.escape(outcome.task.name)}: {html.escape(outcome.cause)} ({outcome.attempts} attempts)"
        for outcome in outcomes
        if outcome.outcome == "failed"
    ]
    return f"<h2>Failed</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _command(program: str, command: dict[str, Any]) -> str:
    return f"<p class=note>python -m {program}, settings {html.escape(json.dumps(command))}</p>"


def _pct(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"

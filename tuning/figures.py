"""Figures of searches and studies, and the importance of settings."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Set
from typing import Any

import optuna
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.pages.figures import BLUE, COLOURS, GREEN, GREY, RED, Plot, epoch_axis, label, labels, plot
from tuning.ledger import Outcome
from tuning.space import SPACE, Categorical

DASHES = ("solid", "dash", "dot", "dashdot")
ENOUGH = 20  # trials from which the importance of settings is more than noise
NAMED = 5  # trials with a colour and a name of their own


def forest_figure(arms: list[dict[str, Any]], split: str, baseline: str, helping: Set[str]) -> Plot:
    """Draw the effect of each arm with its interval; arms that are shown to help in green."""
    rows = sorted((row for row in arms if row["effect"] is not None), key=lambda row: row["effect"])
    intervals = [row["interval"] or (row["effect"], row["effect"]) for row in rows]
    figure = go.Figure(
        go.Scatter(
            x=[100 * row["effect"] for row in rows],
            y=labels([row["arm"] for row in rows]),
            mode="markers",
            marker={"size": 10, "color": [GREEN if row["arm"] in helping else GREY for row in rows]},
            error_x={
                "type": "data",
                "symmetric": False,
                "color": GREY,
                "array": [100 * (i[1] - row["effect"]) for row, i in zip(rows, intervals, strict=True)],
                "arrayminus": [100 * (row["effect"] - i[0]) for row, i in zip(rows, intervals, strict=True)],
            },
        )
    )
    figure.add_vline(x=0, line_color=RED, line_width=1)
    effects = ", ".join(f"{row['arm']} {100 * row['effect']:+.1f}" for row in reversed(rows))
    return plot(
        figure,
        f"Effect on {split} accuracy against “{baseline}” (green: p < .05 after Holm)",
        f"Effects in points, largest first: {effects}.",
        height=110 + 28 * len(rows),
        showlegend=False,
        xaxis={"title": "difference (points), with its 95 % interval"},
        yaxis={"type": "category"},
    )


def gap_figure(arms: list[dict[str, Any]]) -> Plot:
    """Draw A to D of each arm, with a bar between A and B, whose distance is the normalization gap."""
    rows = [row for row in reversed(arms) if row["n"]]
    names = labels([row["arm"] for row in rows])
    figure = go.Figure()
    for row, name in zip(rows, names, strict=True):
        figure.add_scatter(
            x=[100 * row["A"], 100 * row["B"]],
            y=[name] * 2,
            mode="lines",
            showlegend=False,
            line={"color": "rgba(208,83,63,0.3)", "width": 7},
            hoverinfo="skip",
        )
    kinds = (
        ("A", "A training, running", "circle", RED),
        ("B", "B training, batch", "circle-open", RED),
        ("C", "C evaluation, running", "diamond", BLUE),
        ("D", "D evaluation, batch", "diamond-open", BLUE),
    )
    for key, name, symbol, colour in kinds:
        x = [None if row[key] is None else 100 * row[key] for row in rows]
        figure.add_scatter(
            x=x, y=names, mode="markers", name=name, marker={"symbol": symbol, "size": 10, "color": colour}
        )
    gaps = ", ".join(f"{row['arm']} {100 * (row['B'] - row['A']):.1f}" for row in reversed(rows))
    return plot(
        figure,
        "A to D of each arm (the bar is the normalization gap)",
        f"Normalization gaps in points: {gaps}.",
        height=150 + 28 * len(rows),
        xaxis={"title": "accuracy (%), mean over seeds"},
        yaxis={"type": "category"},
    )


def arm_curves_figure(outcomes: list[Outcome]) -> Plot:
    """Draw the accuracy on held-out subjects by epoch, mean over seeds."""
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        for figures in outcome.curve:
            points[outcome.task.arm][int(figures["epoch"])].append(100 * (figures["val"] or 0.0))
    figure = go.Figure()
    for number, (arm, curve) in enumerate(points.items()):
        epochs = sorted(curve)
        figure.add_scatter(
            x=epochs,
            y=[sum(curve[epoch]) / len(curve[epoch]) for epoch in epochs],
            name=label(arm),
            mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]},
        )
    return plot(
        figure,
        "Accuracy C on held-out training subjects by epoch",
        f"Curves of {len(points)} arms.",
        height=420 + 10 * len(points),
        xaxis=epoch_axis([epoch for curve in points.values() for epoch in curve]),
        yaxis={"title": "accuracy (%), mean over seeds"},
    )


def short(name: str) -> str:
    """Return a setting's name without its section."""
    return name.split(".")[-1].replace("_", " ")


def _values(name: str) -> list[Any]:
    axis = SPACE[name]
    return list(axis.values) if isinstance(axis, Categorical) else []


def parallel_figure(good: list[Outcome]) -> Plot:
    """Draw one line per trial through all its settings to its accuracy. `–`: the setting did not matter there."""
    dimensions = []
    for name in SPACE:
        drawn = [outcome.task.settings.get(name) for outcome in good]
        if all(value is None for value in drawn):
            continue
        dimensions.append(_choice_dimension(name, drawn) if _values(name) else _log_dimension(name, drawn))
    accuracies = [100 * outcome.last["val"] for outcome in good]
    dimensions.append({"label": "val (%)", "values": accuracies})
    line = {"color": accuracies, "colorscale": "RdYlGn", "showscale": True, "colorbar": {"title": {"text": "val (%)"}}}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelangle=-30, labelside="bottom"))
    return plot(
        figure,
        "Settings and accuracy on held-out subjects (drag along an axis to select)",
        f"Parallel coordinates of {len(good)} trials; the table below has all values.",
        height=560,
        width=130 * len(dimensions),
        margin={"l": 80, "r": 40, "t": 40, "b": 120},
        font={"size": 12},
    )


def _choice_dimension(name: str, drawn: list[Any]) -> dict[str, Any]:
    values = _values(name)
    texts = ["–" if None in drawn else "", *map(str, values)]
    places = [0 if value is None else 1 + values.index(value) for value in drawn]
    shown = [place for place, text in enumerate(texts) if text]
    return {"label": short(name), "values": places, "tickvals": shown, "ticktext": [texts[i] for i in shown]}


def _log_dimension(name: str, drawn: list[float | None]) -> dict[str, Any]:
    low = min(value for value in drawn if value is not None)
    logs = [math.log10(low if value is None else value) for value in drawn]
    ticks = [min(logs), (min(logs) + max(logs)) / 2, max(logs)]
    return {"label": short(name), "values": logs, "tickvals": ticks, "ticktext": [f"{10**t:.2g}" for t in ticks]}


def slices_figure(good: list[Outcome]) -> Plot:
    """Draw the accuracy over each setting, one point per trial that drew it."""
    names = [name for name in SPACE if any(name in outcome.task.settings for outcome in good)]
    columns = 4
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[short(name) for name in names], vertical_spacing=0.45 / rows)
    for place, name in enumerate(names):
        those = [outcome for outcome in good if name in outcome.task.settings]
        x = [outcome.task.settings[name] for outcome in those]
        values = _values(name)
        cell = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_scatter(
            x=[str(value) for value in x] if values else x,
            y=[100 * outcome.last["val"] for outcome in those],
            mode="markers",
            marker={"color": BLUE, "opacity": 0.65},
            showlegend=False,
            **cell,
        )
        if values:
            order = [str(value) for value in values]
            figure.update_xaxes(type="category", categoryorder="array", categoryarray=order, **cell)
        else:
            figure.update_xaxes(type="log", nticks=4, **cell)
    return plot(
        figure,
        "Accuracy on held-out subjects (%) over each setting",
        f"Scatter plots of accuracy over {len(names)} settings; the table has all values.",
        height=260 * rows,
        width=900,
        margin={"l": 10, "r": 16, "t": 30, "b": 10},
    )


def trial_curves_figure(good: list[Outcome]) -> Plot:
    """Draw the accuracy by epoch of every trial, the best `NAMED` with their names; `good` has the best first."""
    figure = go.Figure()
    for place, outcome in reversed(list(enumerate(good))):
        named = place < NAMED
        figure.add_scatter(
            x=[figures["epoch"] for figures in outcome.curve],
            y=[100 * figures["val"] for figures in outcome.curve],
            name=label(f"{outcome.task.name}, {outcome.task.settings['norm.kind']}"),
            mode="lines+markers",
            line_color=COLOURS[1 + place] if named else "rgba(138,151,165,0.35)",
            showlegend=named,
        )
    return plot(
        figure,
        "Accuracy C on held-out subjects by epoch",
        f"Curves of {len(good)} trials.",
        height=420,
        xaxis=epoch_axis([int(figures["epoch"]) for outcome in good for figures in outcome.curve]),
        yaxis={"title": "accuracy (%)"},
        legend={"traceorder": "reversed"},
    )


def importance_figure(good: list[Outcome]) -> tuple[Plot | None, str]:
    """Draw which settings separate the best tenth of the trials from the rest.

    Returns:
        The figure and an empty string, or None and the reason why there is no figure.
    """
    if len(good) < ENOUGH:
        return None, f"Importance of settings: needs {ENOUGH} trials, {len(good)} have a result."
    try:
        shares = importance(good)
    except (ValueError, RuntimeError, ImportError, ZeroDivisionError) as error:
        return None, f"Importance of settings: {str(error).splitlines()[0]}"
    if not shares:
        return None, "Importance of settings: the trials do not differ enough."
    names = list(reversed(shares))
    figure = go.Figure(
        go.Bar(
            x=[100 * shares[name] for name in names], y=[short(n) for n in names], orientation="h", marker_color=BLUE
        )
    )
    first = next(iter(shares))
    return (
        plot(
            figure,
            "Importance of each setting for a good trial",
            f"Most important: {first}, {100 * shares[first]:.0f} %.",
            height=110 + 24 * len(names),
            xaxis={"title": "share (%), PED-ANOVA"},
        ),
        "",
    )


def importance(good: list[Outcome]) -> dict[str, float]:
    """Return the share of each setting, conditional ones included, largest first.

    PED-ANOVA: Watanabe et al. 2023, arXiv 2304.10255.
    """
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
    if isinstance(axis, Categorical):
        return optuna.distributions.CategoricalDistribution(axis.values)
    return optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)

"""Figures of searches and studies, and the importance of settings."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Any

import optuna

from pipeline.pages import figures
from pipeline.pages.figures import (
    BLUE,
    COLOURS,
    FAINT,
    GREEN,
    GREY,
    RED,
    Bar,
    Curves,
    Dot,
    Key,
    Line,
    Parallel,
    Rows,
    Series,
    Strand,
    StrandAxis,
    signed,
)
from tuning.ledger import Outcome
from tuning.space import SPACE, Categorical, LogUniform

ENOUGH = 20  # trials from which the importance of settings is more than noise
NAMED = 5  # trials with a colour and a name of their own
BEST, OTHERS = 100, 200  # trials that figures draw: the best ones, and of the others an even sample


def forest_figure(arms: list[dict[str, Any]], split: str, baseline: str, helping: Set[str], unit: str = "seed") -> Rows:
    """Draw the effect of each arm with its interval over so many units; arms that are shown to help in green."""
    rows = sorted((row for row in arms if row["effect"] is not None), key=lambda row: -row["effect"])
    lines, dots = [], []
    for row in rows:
        dot = _effect(row, GREEN if row["arm"] in helping else GREY)
        note = f"{row['pairs']} {unit}s" if "pairs" in row else ""
        lines.append(Line(row["arm"], ((replace(dot, text=signed(dot.value)),),), note))
        dots.append(dot)
    effects = ", ".join(f"{row['arm']} {100 * row['effect']:+.1f}" for row in rows)
    return Rows(
        f"Effect on {split} accuracy against “{baseline}” (green: p < .05 after Holm)",
        f"Effects in points, largest first: {effects}.",
        figures.axis("difference (points), with its 95 % interval", _ends(dots)),
        tuple(lines),
        rule=0.0,
    )


def sets_figure(sets: dict[str, Any], arms: list[dict[str, Any]], split: str, baseline: str) -> Rows:
    """Draw the effect of each arm on each data set with its interval over seeds, one colour per data set."""
    colours = {name: COLOURS[1 + number % (len(COLOURS) - 1)] for number, name in enumerate(sets)}
    symbols = {
        name: ("circle", "diamond", "ring")[number // (len(COLOURS) - 1) % 3] for number, name in enumerate(sets)
    }
    rows = sorted((row for row in arms if row["effect"] is not None), key=lambda row: -row["effect"])
    lines, dots, lost = [], list[Dot](), 0
    for row in rows:
        tracks = []
        for name, one in sets.items():
            own = next(found for found in one["arms"] if found["arm"] == row["arm"])
            if own["effect"] is None:
                lost += 1
                continue
            dot = _effect(own, colours[name], symbols[name])
            tip = f"{name}: {signed(dot.value)} points, {own['pairs']} seeds"
            tracks.append((replace(dot, tip=tip),))
            dots.append(dot)
        lines.append(Line(row["arm"], tuple(tracks)))
    missing = f" {lost} of {len(rows) * len(sets)} have no result." if lost else ""
    return Rows(
        f"Effect on {split} accuracy against “{baseline}” on each data set",
        f"Effects of {len(rows)} arms on {len(sets)} data sets; the tables below have all values.{missing}",
        figures.axis("difference (points), with its 95 % interval over seeds", _ends(dots)),
        tuple(lines),
        tuple(Key(name, colours[name], symbols[name]) for name in sets),
        rule=0.0,
    )


def _effect(row: dict[str, Any], colour: str, symbol: str = "circle") -> Dot:
    """Return the effect of an arm in points, with its interval."""
    low, high = (100 * end for end in row["interval"]) if row["interval"] else (None, None)
    return Dot(100 * row["effect"], colour, symbol, low, high)


def _ends(dots: Iterable[Dot]) -> list[float | None]:
    """Return what an axis of effects must hold: zero, the effects and the ends of their intervals."""
    return [0.0, *(end for dot in dots for end in (dot.value, dot.low, dot.high))]


def gap_figure(arms: list[dict[str, Any]]) -> Rows:
    """Draw A to D of each arm, with a bar between A and B, whose distance is the normalization gap."""
    kinds = (
        ("A", "A training, running", "circle", RED),
        ("B", "B training, batch", "ring", RED),
        ("C", "C evaluation, running", "diamond", BLUE),
        ("D", "D evaluation, batch", "open", BLUE),
    )
    rows = [row for row in arms if row["n"]]
    lines = [
        Line(
            row["arm"],
            (
                (
                    Bar(100 * row["A"], 100 * row["B"], RED, thin=True),
                    *(
                        Dot(100 * row[key], colour, symbol, tip=f"{name}: {100 * row[key]:.1f} %")
                        for key, name, symbol, colour in kinds
                        if row[key] is not None
                    ),
                ),
            ),
        )
        for row in rows
    ]
    gaps = ", ".join(f"{row['arm']} {100 * (row['B'] - row['A']):.1f}" for row in rows)
    return Rows(
        "A to D of each arm (the bar is the normalization gap)",
        f"Normalization gaps in points: {gaps}.",
        figures.percent_axis("accuracy (%), mean over seeds", []),
        tuple(lines),
        tuple(Key(name, colour, symbol) for _, name, symbol, colour in kinds),
    )


def arm_curves_figure(outcomes: list[Outcome]) -> Curves:
    """Draw the accuracy on held-out subjects by epoch, mean over seeds."""
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        for metrics in outcome.curve:
            if metrics["val"] is not None:
                points[outcome.task.arm][int(metrics["epoch"])].append(100 * metrics["val"])
    series = tuple(
        Series(
            f"“{arm}”",
            tuple((epoch, sum(curve[epoch]) / len(curve[epoch])) for epoch in sorted(curve)),
            COLOURS[number % len(COLOURS)],
            dashed=bool(number // len(COLOURS) % 2),
            symbol="diamond" if number // (2 * len(COLOURS)) % 2 else "circle",
        )
        for number, (arm, curve) in enumerate(points.items())
    )
    return Curves(
        "Accuracy C on held-out training subjects by epoch",
        f"Curves of {len(points)} arms.",
        figures.epoch_axis([epoch for curve in points.values() for epoch in curve]),
        figures.percent_axis("accuracy (%), mean over seeds", []),
        series,
        height=360,
    )


def short(name: str) -> str:
    """Return a setting's name without its section."""
    return name.split(".")[-1].replace("_", " ")


def settings_of(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the settings that were drawn: those of the default space in its order, then those of the user's own."""
    drawn = dict.fromkeys(name for outcome in outcomes for name in outcome.task.settings)
    return [*(name for name in SPACE if name in drawn), *(name for name in drawn if name not in SPACE)]


def is_number(name: str, values: list[Any]) -> bool:
    """Return whether a setting is drawn on a logarithmic scale."""
    if name in SPACE:
        return isinstance(SPACE[name], LogUniform)
    known = [value for value in values if value is not None]
    return len(set(known)) > MANY and all(isinstance(value, int | float) and value > 0 for value in known)


MANY = 6  # values from which a user's own setting counts as a number


def choices(name: str, values: list[Any]) -> list[Any]:
    """Return the values of a choice that occur, in the order of the space, else sorted."""
    known = {value for value in values if value is not None}
    axis = SPACE.get(name)
    if isinstance(axis, Categorical):
        return [value for value in axis.values if value in known]
    return sorted(known, key=lambda value: (str(type(value)), value))


def sampled(good: list[Outcome]) -> list[Outcome]:
    """Return the trials to draw: the best ones and an even sample of the others; `good` has the best first."""
    others = good[BEST:]
    if len(others) <= OTHERS:
        return good
    return good[:BEST] + [others[place * len(others) // OTHERS] for place in range(OTHERS)]


def parallel_figure(good: list[Outcome]) -> Parallel:
    """Draw one line per trial through all its settings to its accuracy. `–`: the setting did not matter there."""
    axes, places = [], []
    for name in settings_of(good):
        drawn = [outcome.task.settings.get(name) for outcome in good]
        axis, put = (_number_axis if is_number(name, drawn) else _choice_axis)(name, drawn)
        axes.append(axis)
        places.append(put)
    accuracies = [100 * outcome.last["val"] for outcome in good]
    scale = figures.axis("val (%)", accuracies)
    axes.append(StrandAxis("C, held-out subjects (%)", tuple(scale.labels)))
    places.append([scale.at(value) for value in accuracies])
    low, high = min(accuracies), max(accuracies)
    strands = [
        Strand(
            tuple(put[number] for put in places),
            (accuracies[number] - low) / ((high - low) or 1.0),
            f"{outcome.task.name}: {accuracies[number]:.1f} %",
        )
        for number, outcome in enumerate(good)
    ]
    return Parallel(
        "All settings of each trial, from top to bottom, and its accuracy (green: high, red: low)",
        f"Parallel coordinates of {len(good)} trials; the table has all values.",
        tuple(axes),
        tuple(reversed(strands)),
    )


ABSENT = 0.0  # place (%) of trials in which a setting did not matter


def _choice_axis(name: str, drawn: list[Any]) -> tuple[StrandAxis, list[float]]:
    values = choices(name, drawn)
    texts = [*(["–"] if None in drawn else []), *map(str, values)]
    spots = [50.0] if len(texts) == 1 else [100 * place / (len(texts) - 1) for place in range(len(texts))]
    first = int(None in drawn)
    put = [ABSENT if value is None else spots[first + values.index(value)] for value in drawn]
    return StrandAxis(short(name), tuple(zip(spots, texts, strict=True))), put


def _number_axis(name: str, drawn: list[Any]) -> tuple[StrandAxis, list[float]]:
    scale = figures.axis(short(name), drawn, log=True)
    start = 12.0 if None in drawn else 0.0

    def put(place: float) -> float:
        return start + place * (100 - start) / 100

    ticks = tuple((put(place), text) for place, text in scale.labels)
    absent = ((ABSENT, "–"),) if None in drawn else ()
    return StrandAxis(short(name), absent + ticks), [ABSENT if v is None else put(scale.at(v)) for v in drawn]


def slices_figures(good: list[Outcome]) -> list[Curves | Rows]:
    """Draw the accuracy over each setting, one point per trial that drew it."""
    return [_slice(name, [o for o in good if name in o.task.settings]) for name in settings_of(good)]


def _slice(name: str, those: list[Outcome]) -> Curves | Rows:
    x = [outcome.task.settings[name] for outcome in those]
    y = [100 * outcome.last["val"] for outcome in those]
    title, alt = short(name), f"Accuracy over {short(name)}, one point per trial; the table has all values."
    tips = [
        f"{outcome.task.name}: {value}, {accuracy:.1f} %" for outcome, value, accuracy in zip(those, x, y, strict=True)
    ]
    if is_number(name, x):
        points = tuple(zip(x, y, strict=True))
        dots = Series("", points, BLUE, line=False, tips=tuple(tips))
        scale = figures.axis(title, x, log=True)
        return Curves(title, alt, scale, figures.percent_axis("accuracy (%)", []), (dots,), height=170)
    rows = [
        Line(
            str(value),
            (tuple(Dot(y[place], BLUE, tip=tips[place]) for place in range(len(x)) if x[place] == value),),
        )
        for value in choices(name, x)
    ]
    return Rows(title, alt, figures.percent_axis("accuracy (%)", []), tuple(rows))


def trial_curves_figure(good: list[Outcome]) -> Curves:
    """Draw the accuracy by epoch of every trial, the best `NAMED` with their names; `good` has the best first."""
    series = [
        Series(
            f"{outcome.task.name}, {outcome.task.settings.get('norm.kind', '')}".rstrip(", "),
            tuple((metrics["epoch"], 100 * metrics["val"]) for metrics in outcome.curve),
            COLOURS[1 + place] if place < NAMED else FAINT,
            quiet=place >= NAMED,
        )
        for place, outcome in enumerate(good)
    ]
    return Curves(
        "Accuracy C on held-out subjects by epoch",
        f"Curves of {len(good)} trials.",
        figures.epoch_axis([int(metrics["epoch"]) for outcome in good for metrics in outcome.curve]),
        figures.percent_axis("accuracy (%)", []),
        tuple(sorted(series, key=lambda one: not one.quiet)),
        height=340,
    )


def importance_figure(good: list[Outcome]) -> tuple[Rows | None, str]:
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
    first = next(iter(shares))
    rows = [
        Line(short(name), ((Bar(0.0, 100 * share, BLUE, f"{100 * share:.0f}"),),)) for name, share in shares.items()
    ]
    return (
        Rows(
            "Importance of each setting for a good trial",
            f"Most important: {first}, {100 * shares[first]:.0f} %.",
            figures.axis("share (%), PED-ANOVA", [0, *(100 * share for share in shares.values())], low=0),
            tuple(rows),
        ),
        "",
    )


def importance(good: list[Outcome]) -> dict[str, float]:
    """Return the share of each setting, conditional ones included, largest first.

    PED-ANOVA: Watanabe et al. 2023, arXiv 2304.10255.
    """
    distributions_of = {
        name: _distribution(name, [outcome.task.settings.get(name) for outcome in good]) for name in settings_of(good)
    }
    study = optuna.create_study(direction="maximize")
    for outcome in good:
        settings = outcome.task.settings
        distributions = {name: distributions_of[name] for name in settings}
        study.add_trial(
            optuna.trial.create_trial(params=settings, distributions=distributions, value=outcome.last["val"])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study))


def _distribution(name: str, drawn: list[Any]) -> Any:
    axis = SPACE.get(name)
    if isinstance(axis, LogUniform):
        return optuna.distributions.FloatDistribution(axis.low, axis.high, log=True)
    if isinstance(axis, Categorical):
        return optuna.distributions.CategoricalDistribution(axis.values)
    if is_number(name, drawn):
        known = [value for value in drawn if value is not None]
        return optuna.distributions.FloatDistribution(min(known), max(known), log=True)
    return optuna.distributions.CategoricalDistribution(choices(name, drawn))

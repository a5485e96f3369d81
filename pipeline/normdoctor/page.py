"""The page of a diagnosis: values from its figures, drawn by the templates beside this module (needs jinja2)."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checks import CHECKS, REST
from .moments import RATIO_LIMIT, SHIFT_LIMIT
from .remedies import REMEDIES

if TYPE_CHECKING:
    import jinja2

    from .diagnosis import Diagnosis

TEMPLATES = Path(__file__).parent / "templates"
MISSING = "the page needs jinja2: pip install jinja2"
# Least number of ticks of an axis.
TICKS = 4
MEANING = {
    "A": "training samples, running statistics",
    "B": "training samples, statistics of their batch",
    "C": "evaluation samples, running statistics",
    "D": "evaluation samples, statistics of their batch",
}

Doctor = Mapping[str, Any]
"""Content of doctor.json, or `Diagnosis.as_dict()`."""


@dataclass(frozen=True)
class Words:
    """Words for scores and samples."""

    is_share: bool = True
    """True if scores are fractions, shown in %."""
    samples: str = "samples"
    evaluation: str = "evaluation"

    def score(self, value: float) -> str:
        """Return a score: 71.0 %, or -0.123."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.3g}"

    def points(self, difference: float, sign: str = "") -> str:
        """Return a difference of scores without its unit; `sign`: "+" to write it."""
        return f"{100 * difference:{sign}.1f}" if self.is_share else f"{difference:{sign}.3g}"

    @property
    def unit(self) -> str:
        """Unit of a difference, with a space before it."""
        return " points" if self.is_share else ""


@dataclass(frozen=True)
class Found:
    """A cause, a suspicion or a loss, as a page shows it."""

    kind: str
    check: str
    evidence: str
    now: str
    next_training: str
    move: str = ""
    """Score before and after its remedy."""
    gain: str = ""
    """The samples it was measured on, and the interval of the gain."""


@dataclass(frozen=True)
class Point:
    """A score on an axis, with its interval; places in %."""

    at: float
    text: str
    series: str
    """eval or train, which chooses the colour."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PointRow:
    """A row of a figure."""

    name: str
    note: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Points:
    """A figure: scores below each other over one axis, the numbers above their points."""

    title: str
    alt: str
    axis: str
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[PointRow, ...]
    keys: tuple[tuple[str, str], ...]
    """Legend: colour and name."""


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the place of a value in %."""
        return round(100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))), 2)

    def ticks(self, words: Words) -> tuple[tuple[float, str], ...]:
        """Return places and texts of round values."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / TICKS))
        step = next(step * k for k in (1, 2, 5, 10) if (self.high - self.low) / (step * k) <= 2 * TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(
            (self.at(k * step), f"{100 * k * step:.0f}" if words.is_share else f"{k * step:.4g}")
            for k in range(first, last + 1)
        )


def scale(values: list[float], words: Words) -> Scale:
    """Return the axis of scores: 0 to 1 for shares, else with some room around them."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if words.is_share:
        return Scale(min(0.0, low), max(1.0, high))
    room = 0.08 * (high - low) or max(abs(high), 1.0)
    return Scale(low - room, high + room)


def headline(doctor: Doctor, words: Words = Words()) -> str:  # noqa: B008 - frozen
    """Return the main result in a few words."""
    gap = doctor["gap"].get("own_batches", doctor["gap"]["normalization"])
    size = f"{words.points(gap)}{words.unit}"
    if doctor["causes"]:
        first = doctor["causes"][0]
        share = f", {100 * first['recovered']:.0f} % of a normalization gap of {size}"
        return first["check"] + ("" if first["check"] == "mode" else share)
    if gap > doctor["threshold"]:
        suspected = ", ".join(entry["check"] for entry in doctor["suspicions"])
        return f"{size} of normalization gap, {f'suspected: {suspected}' if suspected else 'unexplained'}"
    return "no normalization gap" if doctor["layers"] else "no batch norm"


def setting(doctor: Doctor, words: Words) -> str:
    """Return the measured samples and the gap with its interval in one line."""
    low, high = doctor["intervals"]["normalization"]
    count = doctor["samples"]
    evaluated = f"{count['eval']} {words.evaluation}" if count["eval"] else "no evaluation"
    return (
        f"{count['train']} training and {evaluated} {words.samples}; normalization gap "
        f"{words.points(doctor['gap']['normalization'])}{words.unit} (95 % interval {words.points(low)} to "
        f"{words.points(high)}; it counts above {words.points(doctor['threshold'])})"
    )


def findings(doctor: Doctor, words: Words) -> list[Found]:
    """Return causes, suspicions and other losses."""
    kinds = {"cause": "causes", "suspicion": "suspicions", "other loss": "rest"}
    return [_found(kind, entry, words) for kind, key in kinds.items() for entry in doctor[key]]


def _found(kind: str, entry: Doctor, words: Words) -> Found:
    move = gain = ""
    if "before" in entry and entry["after"] != entry["before"]:
        low, high = (words.points(end, "+") for end in entry["interval"])
        move = f"{words.score(entry['before'])} → {words.score(entry['after'])}"
        gain = (
            f"{words.evaluation} {words.samples}, nothing retrained (95 % interval of the gain {low} to {high}"
            f"{words.unit})"
        )
    return Found(kind, entry["check"], entry["evidence"], entry["now"], entry["next_training"], move, gain)


def checked(doctor: Doctor) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return name, label and evidence of the checks that found something; name and label of the others."""
    every = doctor["checks"].items()
    return [(name, about(name), text) for name, text in every if text], [(n, about(n)) for n, text in every if not text]


def about(check: str) -> str:
    """Return what a check looks for."""
    return (CHECKS | REST)[check].label


def scores_figure(doctor: Doctor, words: Words) -> Points:
    """Draw A to D."""
    four: dict[str, float] = doctor["accuracies"]
    axis = scale(list(four.values()), words)
    rows = tuple(
        PointRow(name, MEANING[name], (Point(axis.at(value), words.score(value), "train" if name in "AB" else "eval"),))
        for name, value in four.items()
    )
    alt = f"Scores: {', '.join(f'{name} {words.score(value)}' for name, value in four.items())}."
    return Points("Four scores", alt, _title(words), axis.ticks(words), rows, ())


def remedies_figure(doctor: Doctor, words: Words) -> Points | None:
    """Draw the scores under each set of statistics, with the 95 % interval of their gains; None without any."""
    table: dict[str, Doctor] = doctor["recalibration"]
    if not table:
        return None
    start = doctor["accuracies"]
    ends = {
        (name, key): [start[key] + end for end in values["gain"][key]]
        for name, values in table.items()
        for key in "AC"
        if key in values
    }
    drawn = [values[key] for values in table.values() for key in "AC" if key in values]
    axis = scale([*drawn, *(end for pair in ends.values() for end in pair)], words)
    series = {"A": "train", "C": "eval"}

    def point(name: str, key: str) -> Point:
        value, (low, high) = table[name][key], ends[name, key]
        places = axis.at(min(low, value)), axis.at(max(high, value))
        return Point(axis.at(value), words.score(value), series[key], *places)

    rows = tuple(
        PointRow(REMEDIES[name].label, "", tuple(point(name, key) for key in "AC" if key in values))
        for name, values in table.items()
    )
    shown = (
        f"{REMEDIES[name].label} {words.score(values.get('C', values.get('A', math.nan)))}"
        for name, values in table.items()
    )
    keys = (("train", f"A, training {words.samples}"), ("eval", f"C, {words.evaluation} {words.samples}"))
    return Points(
        "Other statistics, nothing retrained (whiskers: 95 % interval of the gain)",
        f"Scores by set of statistics: {', '.join(shown)}.",
        _title(words),
        axis.ticks(words),
        rows,
        tuple(key for key in keys if any(key[1][0] in values for values in table.values())),
    )


def _title(words: Words) -> str:
    return "score (%)" if words.is_share else "score"


def layer_rows(doctor: Doctor) -> list[dict[str, Any]]:
    """Return the cells of the table of call sites; `far` names the columns beyond their limit."""
    rows = []
    for entry in doctor["layers"]:
        train, held_out = entry.get("train", {}), entry.get("eval", {})
        cells = {
            "shift": train.get("shift"),
            "ratio": train.get("ratio"),
            "eval_shift": held_out.get("shift"),
            "eval_ratio": held_out.get("ratio"),
        }
        far = [
            name
            for name, value in cells.items()
            if value is not None and value > (SHIFT_LIMIT if "shift" in name else RATIO_LIMIT)
        ]
        momentum = entry["momentum"]
        rows.append(
            {
                "layer": entry["layer"] or "the model",
                "call": entry["call"] + 1,
                "values": f"{entry['values_per_statistic']:,.0f}",
                "momentum": "average" if momentum is None else f"{momentum:g}",
                "updates": f"{entry['updates']:,}",
                "far": far,
                **{name: "–" if value is None else f"{value:.2f}" for name, value in cells.items()},
            }
        )
    return rows


def rendered(diagnosis: Diagnosis, template: str = "report.html") -> str:
    """Return the page of a diagnosis, or its first screen (`first.html`), as text.

    Raises:
        ImportError: jinja2 is missing.
    """
    doctor, words = diagnosis.as_dict(), Words(diagnosis.is_share)
    fired, silent = checked(doctor)
    return (
        environment()
        .get_template(template)
        .render(
            title=headline(doctor, words),
            setting=setting(doctor, words),
            verdict=doctor["verdict"],
            findings=findings(doctor, words),
            scores=scores_figure(doctor, words),
            remedies=remedies_figure(doctor, words),
            layers=layer_rows(doctor),
            limits={"shift": SHIFT_LIMIT, "ratio": RATIO_LIMIT},
            fired=fired,
            silent=silent,
            assumed=doctor["assumed"],
            origin=origin(),
        )
    )


def environment() -> jinja2.Environment:
    """Return the templates, with autoescape on.

    Raises:
        ImportError: jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError:
        raise ImportError(MISSING) from None
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def first_screen(diagnosis: Diagnosis) -> str:
    """Return what a notebook shows: the page's first screen, or the text and what to install."""
    try:
        return rendered(diagnosis, "first.html")
    except ImportError:
        return f"<pre style='white-space: pre-wrap'>{html.escape(f'{diagnosis}')}\n({html.escape(MISSING)})</pre>"


def origin() -> dict[str, str]:
    """Return the provenance of a page: versions and date."""
    from . import __version__  # the package imports this module

    return {
        "Made by": f"normdoctor {__version__}",
        "With": f"torch {torch.__version__}",
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }

"""Figures as plain typed values; `templates/figures.html` draws them as SVG and HTML, without a script.

Places are shares of the drawing (%), so a figure fills any width, its text keeps its size, and its colours are those
of the style sheet, light or dark. A text alternative names what is drawn and the main result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RED, BLUE, GREY, GREEN = "var(--bad)", "var(--body-0)", "var(--soft)", "var(--good)"
PURPLE, ORANGE, PINK, OLIVE = "var(--body-3)", "var(--body-1)", "var(--body-4)", "var(--body-5)"
COLOURS = (GREY, RED, BLUE, GREEN, PURPLE, ORANGE, PINK, OLIVE)
FAINT = "var(--dropped)"
MOST_TICKS = 6
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
ROOM = 0.04  # share of the values' range that a free axis adds at each end

Number = float | None


@dataclass(frozen=True)
class Axis:
    """A scale with its ticks."""

    title: str
    """With the unit."""
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, in % of the axis; values outside lie on its ends."""
        low, high = (math.log10(end) if self.log else end for end in (self.low, self.high))
        here = math.log10(max(value, self.low)) if self.log else value
        return round(100 * min(1.0, max(0.0, (here - low) / ((high - low) or 1.0))), 2)

    @property
    def labels(self) -> list[tuple[float, str]]:
        """Places of the ticks and their texts."""
        return [(self.at(value), tick(value)) for value in self.ticks]


def signed(points: float, digits: int = 1) -> str:
    """Return a difference in points with its sign."""
    return f"{points:+.{digits}f}".replace("-", "−")


def tick(value: float) -> str:
    """Return a tick's text: a round number, or a power of ten."""
    if value >= 10_000 and math.log10(value).is_integer():
        return "10" + str(round(math.log10(value))).translate(SUPERSCRIPT)
    return (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}").replace("-", "−")


def axis(
    title: str,
    values: Iterable[Number],
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    whole: bool = False,
) -> Axis:
    """Return an axis that holds the values.

    Args:
        title: With the unit.
        values: What is drawn; None and non-finite values are left out.
        low: First value; None: a little below the smallest one.
        high: Last value; None: a little above the largest one.
        log: Logarithmic; values must be positive.
        whole: Ticks at whole numbers, as epochs have.
    """
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    first, last = min(known), max(known)
    if log:
        start, end = low or first, high or last
        start, end = (start, end) if end > start else (start / 2, start * 2)
        return Axis(title, start, end, _log_ticks(start, end), log=True)
    room = ROOM * (last - first) or (0.5 if whole else ROOM)
    start = first - room if low is None else low
    end = last + room if high is None else high
    end = end if end > start else start + 1
    return Axis(title, start, end, _ticks(start, end, whole))


def percent_axis(title: str, values: Iterable[Number]) -> Axis:
    """Return an axis of accuracies in %, from 0 to 100, or as far below 0 as values are."""
    known = [0.0, *(value for value in values if value is not None and math.isfinite(value))]
    return axis(title, known, low=min(known), high=max(100.0, max(known)))


def _ticks(low: float, high: float, whole: bool) -> tuple[float, ...]:
    """Return round values between the ends, at most `MOST_TICKS`."""
    power = 10 ** math.floor(math.log10((high - low) / MOST_TICKS))
    steps = [power * digit for digit in (1, 2, 5, 10, 20)]
    step = next(step for step in steps if (high - low) / step <= MOST_TICKS)
    step = max(1, math.ceil(step)) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(place * step, 12) for place in range(first, last + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return powers of ten between the ends, with 2 and 5 times them where few fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(ticks) <= MOST_TICKS:
            break
    return tuple(ticks) if len(ticks) > 1 else (low, high)


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    colour: str
    symbol: str = "circle"
    """circle, ring, diamond, open, bar, line or dots."""


@dataclass(frozen=True)
class Series:
    """Points that a line joins, or points alone."""

    name: str
    points: tuple[tuple[float, Number], ...]
    colour: str
    dashed: bool = False
    line: bool = True
    symbol: str = "circle"
    """circle, diamond, or empty: no symbols."""
    sizes: tuple[float, ...] = ()
    """Radius of each symbol, pixels; empty: 3.5."""
    tips: tuple[str, ...] = ()
    """Text shown when a symbol is pointed at; empty: its coordinates."""
    quiet: bool = False
    """Not in the legend, and drawn thin."""


@dataclass(frozen=True)
class Curves:
    """Series over two numeric axes."""

    title: str
    alt: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    height: int = 300
    """Pixels, of the drawing without legend and axis."""
    kind: str = "curves"

    @property
    def keys(self) -> list[Key]:
        """The legend; empty where one series explains itself."""
        shown = [one for one in self.series if not one.quiet and one.name]
        if len(self.series) == 1:
            return []
        return [
            Key(one.name, one.colour, "dots" if one.dashed else "line" if one.line else one.symbol) for one in shown
        ]

    def lines(self, one: Series) -> list[str]:
        """Return the stretches of a series between gaps, as points of SVG in a square of 100."""
        stretches: list[list[str]] = [[]]
        for x, y in one.points:
            if y is None or not math.isfinite(y):
                stretches.append([])
            else:
                stretches[-1].append(f"{self.x.at(x)},{100 - self.y.at(y):.2f}")
        return [" ".join(points) for points in stretches if len(points) > 1]

    def marks(self, one: Series) -> list[tuple[float, float, float, str]]:
        """Return place (%), radius (pixels) and text of each symbol."""
        found = []
        for place, (x, y) in enumerate(one.points):
            if y is None or not math.isfinite(y):
                continue
            radius = one.sizes[place] if one.sizes else 2.5 if one.quiet else 3.5
            tip = one.tips[place] if one.tips else f"{one.name + ': ' if one.name else ''}{x:.4g}, {y:.4g}"
            found.append((self.x.at(x), round(100 - self.y.at(y), 2), radius, tip))
        return found


@dataclass(frozen=True)
class Bar:
    """A bar from one value to another."""

    start: float
    end: float
    colour: str
    text: str = ""
    """Written beyond its end."""
    thin: bool = False
    """A faint bar that joins points."""


@dataclass(frozen=True)
class Dot:
    """A point, with an interval or without."""

    value: float
    colour: str
    symbol: str = "circle"
    """circle, ring, diamond or open."""
    low: Number = None
    high: Number = None
    text: str = ""
    """Written above it, where no whisker runs through it."""
    tip: str = ""


Mark = Bar | Dot


@dataclass(frozen=True)
class Line:
    """A row of a figure: its name, and lanes of marks below each other."""

    name: str
    lanes: tuple[tuple[Mark, ...], ...]
    note: str = ""
    """Small text after the name."""


@dataclass(frozen=True)
class Rows:
    """Categories below each other over one numeric axis: bars, points with intervals, a waterfall."""

    title: str
    alt: str
    x: Axis
    rows: tuple[Line, ...]
    keys: tuple[Key, ...] = ()
    rule: Number = None
    """A line at this value."""
    kind: str = "rows"

    @property
    def tall(self) -> bool:
        """Return whether lanes need room for text above points."""
        return any(isinstance(mark, Dot) and mark.text for row in self.rows for lane in row.lanes for mark in lane)


@dataclass(frozen=True)
class Heat:
    """Shares of a square table: class by prediction."""

    title: str
    alt: str
    names: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    """Row by row, fractions."""
    kind: str = "heat"


@dataclass(frozen=True)
class StrandAxis:
    """A setting of a parallel plot."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    """Place (%) and text."""


@dataclass(frozen=True)
class Strand:
    """A line through all settings."""

    places: tuple[float, ...]
    """In %, one per axis."""
    rank: float
    """0: worst, 1: best; chooses the colour."""
    tip: str


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates with the axes below each other, so that any number fits any width."""

    title: str
    alt: str
    axes: tuple[StrandAxis, ...]
    strands: tuple[Strand, ...]
    kind: str = "parallel"

    def points(self, strand: Strand) -> str:
        """Return a line's points; y is the number of the axis."""
        return " ".join(f"{x:.2f},{row + 0.5}" for row, x in enumerate(strand.places))


Plot = Curves | Rows | Heat | Parallel


def epoch_axis(epochs: Sequence[int]) -> Axis:
    """Return an axis of epochs with ticks at whole numbers."""
    first, last = min(epochs, default=1), max(epochs, default=1)
    return axis("epoch", epochs, low=first - 0.5 if first == last else first, high=max(last, first + 0.5), whole=True)


def hundred(values: Iterable[Number]) -> list[Number]:
    """Return fractions in %."""
    return [None if value is None else 100 * value for value in values]


def percent(value: Number, digits: int = 0) -> str:
    """Return a fraction in %, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def move(before: float, after: float, digits: int = 0) -> str:
    """Return two accuracies (fractions) as the large figure of a box."""
    return f"{percent(before, digits)} → {percent(after, digits)}"

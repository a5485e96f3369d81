"""The only door to plotly: figures with a title, a text alternative and the look of all pages.

Colours work on light and dark paper; `templates/figures.js` sets the colours of text and grid from the style sheet.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

RED, BLUE, GREY, GREEN = "#d0533f", "#3b82c4", "#8a97a5", "#2e9e63"
COLOURS = (GREY, RED, BLUE, GREEN, "#9565c0", "#d98026")
SHARES = [[0.0, "rgba(59,130,196,0)"], [0.02, "rgba(59,130,196,0.12)"], [1.0, "rgb(30,100,165)"]]
"""Colour scale of shares: nothing is the colour of the paper."""

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


@dataclass(frozen=True)
class Plot:
    """A figure as a page draws it."""

    title: str
    alt: str
    """Text alternative for readers who do not see the figure."""
    spec: dict[str, Any]
    """`data` and `layout` of plotly."""
    height: int
    """Pixels."""
    width: int = 0
    """Least width in pixels; narrower pages scroll the figure. 0: any."""


def plot(figure: go.Figure, title: str, alt: str, height: int = 340, width: int = 0, **layout: Any) -> Plot:
    """Return a figure with the look of all pages.

    Args:
        figure: Traces and axes.
        title: Heading above the figure, plain text, with the unit where axes have none.
        alt: Text alternative: what is drawn and the main result.
        height: Pixels.
        width: Least width in pixels.
        **layout: Further settings of plotly's layout.
    """
    # Turned into a narrow bar, an 8 reads as infinity.
    figure.update_traces(textangle=0, selector={"type": "bar"})
    figure.update_layout(
        template="none",
        margin={"l": 10, "r": 16, "t": 14, "b": 10},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        font={"size": 13},
    )
    figure.update_layout(**layout)
    figure.update_xaxes(automargin=True, zeroline=False, title_font_size=13)
    figure.update_yaxes(automargin=True, zeroline=False, title_font_size=13)
    return Plot(title, alt, json.loads(figure.to_json()), height, width)


def epoch_axis(epochs: Sequence[int]) -> dict[str, Any]:
    """Return an axis of epochs with ticks at whole numbers."""
    return {"title": "epoch"} | ({"dtick": 1} if max(epochs, default=1) <= 14 else {})


def label(text: str) -> str:
    """Return a name so that plotly, which reads some HTML in labels, shows it as it is."""
    return text.translate(_ENTITIES)


def labels(texts: Sequence[str]) -> list[str]:
    """Return names as `label` does."""
    return [label(text) for text in texts]


def hundred(values: Sequence[float | None]) -> list[float | None]:
    """Return fractions in %."""
    return [None if value is None else 100 * value for value in values]


def percent(value: float | None, digits: int = 0) -> str:
    """Return a fraction in %, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def move(before: float, after: float, digits: int = 0) -> str:
    """Return two accuracies (fractions) as the large figure of a box."""
    return f"{percent(before, digits)} → {percent(after, digits)}"


@cache
def plotly_script() -> Markup:
    """Return plotly's script, deflated and in base64 (2 MB instead of 5); `templates/figures.js` inflates it."""
    return Markup(base64.b64encode(zlib.compress(get_plotlyjs().encode(), 9)).decode())  # noqa: S704 - base64

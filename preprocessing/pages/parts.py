"""Boxes and tables as plain typed values; `templates/macros.html` draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Value = str | int | float | None


@dataclass(frozen=True)
class Box:
    """A headline figure with a sentence: one of the first things on a page."""

    title: str
    figure: str = ""
    """Large text, such as `40.2 → 71.0 %`."""
    text: str = ""
    tone: Literal["bad", "good", "plain"] = "plain"
    items: tuple[tuple[str, str], ...] = ()
    """Names with their figures, one per line, below the text."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its header and how its values are written."""

    title: str
    unit: str = ""
    form: str = ""
    """Format specification of numbers, such as `.1f`; empty: as `str` writes them."""
    scale: float = 1.0
    """Numbers are multiplied by this, for example 100 for fractions shown in %."""
    align: Literal["left", "right"] = "right"
    note: str = ""
    """Explanation shown on demand."""

    def show(self, value: Value) -> str:
        """Write one value; a missing one (None) is empty."""
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        return format(value * self.scale if self.scale != 1 else value, self.form)


def text(title: str, note: str = "") -> Column:
    """Return a column of words, aligned left."""
    return Column(title, align="left", note=note)


def number(title: str, unit: str = "", form: str = "", note: str = "") -> Column:
    """Return a column of numbers, aligned right."""
    return Column(title, unit, form, note=note)


def percent(title: str, note: str = "", form: str = ".1f", unit: str = "%") -> Column:
    """Return a column of fractions, shown in % (or points) with one decimal."""
    return Column(title, unit, form, scale=100.0, note=note)


@dataclass(frozen=True)
class Row:
    """A row of a table: one value per column; the first names the row."""

    cells: tuple[Value, ...]
    marked: str = ""
    """Reason for highlighting the row, in a word such as `baseline`; empty: it is not highlighted."""


@dataclass(frozen=True)
class Table:
    """A table with a caption, which screen readers announce."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"{self.caption}: {len(row.cells)} cells for {len(self.columns)} columns in {row}")

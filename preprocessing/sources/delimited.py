"""Delimited text: CSV with a header, separated by commas, semicolons or tabs, in UTF-8 or UTF-16."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from preprocessing.sources.entries import SourceError

_UNIT = re.compile(r"\s*[\[(][^\])]*[\])]$")  # x [m], x (mm)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decode(raw: bytes, where: str) -> str:
    """Return text without a byte order mark; SourceError with `where` for bytes that are not text."""
    encoding = "utf-16" if raw[:2] in _UTF16 else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from None


def header_of(line: str) -> list[str]:
    """Return the column names of a header line, as `read_table` returns them."""
    return [_plain(word) for word in next(csv.reader([line.strip("\r\n")], delimiter=_delimiter(line)), [])]


def read_table(raw: bytes, where: str, needed: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Parse a CSV with a header (commas, semicolons or tabs).

    Args:
        raw: The content.
        where: Its place, for messages.
        needed: Column that is needed -> names that it may have.

    Returns:
        Rows without surrounding spaces, column names in lower case and without a unit in brackets, needed columns by
        their first name.

    Raises:
        SourceError: It is not text, or a column is missing, empty or named twice.
    """
    text = decode(raw, where)
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    header = [_plain(word) for word in next(reader, [])]
    if repeated := next((word for word in header if word and header.count(word) > 1), ""):
        raise SourceError(f"{where}: two columns are named {repeated!r}. Rename or remove one.")
    place = {}
    for column, words in needed.items():
        place[column] = next((header.index(word) for word in words if word in header), -1)
        if place[column] < 0:
            raise SourceError(
                f"{where} has no column {column}: its header is {', '.join(header)[:80]!r}. Add a header line such as"
                f" {','.join(needed)}."
            )
    rows = []
    try:
        for number, cells in enumerate(reader, 2):
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell.strip() for cell in cells]
            if len(cells) != len(header):
                raise SourceError(f"{where}: line {number} has {len(cells)} fields; its header has {len(header)}")
            row = dict(zip(header, cells, strict=True)) | {column: cells[at] for column, at in place.items()}
            if empty := next((column for column in needed if not row[column]), ""):
                raise SourceError(f"{where}: line {number} has no {empty}")
            rows.append(row)
    except csv.Error as error:
        raise SourceError(f"{where} is not a readable CSV: {error}. Save it again as CSV.") from None
    return rows


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _plain(word: str) -> str:
    return _UNIT.sub("", word.strip()).lower()

"""Head of a journal: how many lines it has at least, and their checksum, in a file beside it.

The chain of a journal finds an edited line, but not a dropped end. The head is published after each line, so a kill
leaves one line more than it counts. Journals of older versions have none; they get one when they are written to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing import files, journal
from preprocessing.faults import faultpoint


def path_of(path: Path) -> Path:
    """Return the path of a journal's head."""
    return path.with_suffix(".head.json")


def publish(path: Path, lines: int, chain: str, adopted: Sequence[dict[str, Any]] = ()) -> None:
    """Publish the head of the journal at `path`.

    Args:
        path: The journal.
        lines: Number of its lines.
        chain: Checksum of the last one.
        adopted: Who accepted changes, and when.
    """
    faultpoint("line appended")
    files.publish_json(path_of(path), {"lines": lines, "chain": chain, "adopted": list(adopted)})


def adoptions(path: Path) -> list[dict[str, Any]]:
    """Return who accepted changes of a journal, and when."""
    head = path_of(path)
    return list(files.read_json(head).get("adopted", [])) if head.is_file() else []


def check(path: Path, remedy: str) -> list[journal.Line]:
    """Check a journal against its head, and return its lines.

    Raises:
        IntegrityError: Lines were edited, dropped or added; the message ends with `remedy`.
    """
    lines = journal.read_lines(path, remedy=remedy)
    head = path_of(path)
    if not head.is_file():
        if len(lines) > 1 and any(line.chained for line in lines):
            raise files.IntegrityError(f"{head} is missing. {remedy}")
        return lines
    found = files.read_json(head, "lines", "chain")
    count = found["lines"]
    if type(count) is not int or count < 1:
        raise files.IntegrityError(f"{head} was edited: lines is {count!r}. {remedy}")
    if len(lines) < count:
        what = f"has {len(lines)} of {count} lines" if path.is_file() else "is missing"
        raise files.IntegrityError(f"{path} {what}. {remedy}")
    if lines[count - 1].chain != found["chain"]:
        raise files.IntegrityError(f"{path} differs from what was written (checksum). {remedy}")
    if len(lines) > count + 1:
        raise files.IntegrityError(f"{path} has {len(lines)} lines, {len(lines) - count} more than written. {remedy}")
    return lines

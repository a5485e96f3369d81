"""Protect files of the user: an output that exists with other content, and an output among the recordings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import open_file

METADATA = "data.json"  # of a run folder; holds the content hash of its data file
DEPTH = 3  # folders below the file's folder in which runs are looked for
FOLDERS = 2000  # at most


class ExistsError(ValueError):
    """The output exists and holds something else; the message has one line."""


def check_place(out: Path, sources: Iterable[Path]) -> None:
    """Raise ValueError if the output is one of the sources or lies inside a source folder."""
    place = out.resolve()
    for source in sources:
        if place == source.resolve():
            raise ValueError(f"--out {out} is a source itself. Name another file.")
        if source.is_dir() and place.is_relative_to(source.resolve()):
            raise ValueError(f"--out {out} lies inside the source folder {source}. Name a file outside of it.")


def check_existing(out: Path, content_sha256: str) -> None:
    """Raise ExistsError if `out` exists with other content than that of the hash; name the runs that need it."""
    if not out.exists():
        return
    try:
        old = open_file(out, fast_start=True).content_sha256
    except (IntegrityError, OSError):
        raise ExistsError(
            f"{out} exists and is not a readable data file. --overwrite replaces it; or name another --out."
        ) from None
    if old == content_sha256:
        return
    runs = sorted(str(folder) for folder in stranded(old, {out.resolve().parent, Path.cwd()}))
    more = f", and {len(runs) - 3} more" if len(runs) > 3 else ""
    needed = f" Runs that were trained on it need it as it is: {', '.join(runs[:3])}{more}." if runs else ""
    raise ExistsError(
        f"{out} exists with other content.{needed} --overwrite replaces it, and need not build again; "
        "or name another --out."
    )


def stranded(content_sha256: str, folders: Iterable[Path]) -> set[Path]:
    """Return the run folders below some folders whose data file has this content hash."""
    found = set()
    for folder in folders:
        for path in _below(folder, DEPTH, [FOLDERS]):
            try:
                metadata = json.loads((path / METADATA).read_text())
            except (OSError, ValueError):
                continue
            if isinstance(metadata, dict) and metadata.get("content_sha256") == content_sha256:
                found.add(path)
    return found


def _below(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return
    for path in inside:
        if left[0] <= 0:
            return
        left[0] -= 1
        yield path
        if depth > 1 and not (path / METADATA).exists():
            yield from _below(path, depth - 1, left)

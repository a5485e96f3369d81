"""Sources: where clips come from. Clips are read lazily, one at a time.

To add a format: write a module with a function `paths -> ClipSource` and add one line to `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from preprocessing.sources.arrays import open_arrays
from preprocessing.sources.entries import COLUMNS, ClipSource, Entry, SourceError
from preprocessing.sources.skeleton_files import SUFFIX, open_skeletons

__all__ = ["COLUMNS", "SOURCES", "SUFFIX", "ClipSource", "Entry", "SourceError", "SourceReader", "open_sources"]


class SourceReader(NamedTuple):
    """A format of recordings."""

    accepts: Callable[[Path], bool]
    open: Callable[[list[Path]], ClipSource]
    several: bool  # whether several paths can be read as one source


SOURCES: dict[str, SourceReader] = {
    "arrays": SourceReader(lambda path: path.suffix == ".npz", open_arrays, several=False),
    # Accepts any other path, so that its error message names all that can be a source.
    "skeletons": SourceReader(lambda path: True, open_skeletons, several=True),
}
"""Format -> reader; the first that accepts a path reads it."""


def open_sources(paths: Iterable[Path]) -> ClipSource:
    """Open folders and zips of `.skeleton` files as one source, or one array file.

    Raises:
        SourceError: A path does not exist, is not a source, or cannot be combined with the others.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist; name a folder, a .zip or an array .npz")
    readers = [next(reader for reader in SOURCES.values() if reader.accepts(path)) for path in paths]
    for path, reader in zip(paths, readers, strict=True):
        if len(paths) > 1 and not reader.several:
            raise SourceError(f"{path} is an array file and must be the only source; build the others separately")
    return readers[0].open(paths) if readers else open_skeletons(paths)

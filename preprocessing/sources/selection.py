"""Choices that apply to any source: a subset of the classes, and protocols of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocessing.skeleton import SkeletonError
from preprocessing.sources.entries import ClipSource, Reading, SourceError
from preprocessing.sources.labels import split_table
from preprocessing.sources.trees import read_file

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def select(source: ClipSource, reading: Reading) -> ClipSource:
    """Apply --classes and --splits to a source."""
    if reading.classes:
        source = with_classes(source, chosen_classes(reading.classes, source.class_names))
    if reading.splits:
        names = [entry.name for entry in source.entries]
        protocols = split_table(_text(reading.splits), str(reading.splits), names)
        notes = [
            f"{reading.splits}: {sum(part_N == '')} of {len(names)} clips are in no part of {protocol}"
            for protocol, part_N in protocols.items()
            if (part_N == "").any()
        ]
        source = replace(source, protocols=protocols, notes=[*source.notes, *notes])
    return source


def chosen_classes(text: str, class_names: list[str]) -> dict[int, str]:
    """Return old label -> name of the new class.

    Args:
        text: Class numbers counted from 1 and ranges of them (`1-10,23`), or a file with one class per line, by its
            number or name; behind a tab or a comma, the name of the class that it becomes.
        class_names: Names of the source's classes.

    Raises:
        SourceError: A class is unknown or named twice, or the file cannot be read.
    """
    parts = [part.strip() for part in text.split(",")]
    chosen: dict[int, str] = {}
    if all(_RANGE.fullmatch(part) for part in parts):
        for part in parts:
            first, last = (int(number or 0) for number in _RANGE.fullmatch(part).groups())  # type: ignore[union-attr]
            for number in range(first, (last or first) + 1):
                _choose(chosen, str(number), "", class_names, f"--classes {text}")
        return chosen
    if not Path(text).is_file():
        raise SourceError(f"--classes {text!r} is invalid: write 1-10,23 (counted from 1), or name a file of classes")
    for line in _text(Path(text)).decode("utf-8-sig", "replace").splitlines():
        if line.strip():
            old, _, new = re.sub(r"[\t,]", "\t", line.strip(), count=1).partition("\t")
            _choose(chosen, old.strip(), new.strip(), class_names, text)
    return chosen


def _choose(chosen: dict[int, str], old: str, new: str, class_names: list[str], where: str) -> None:
    label = class_names.index(old) if old in class_names else int(old) - 1 if old.isdecimal() else -1
    if not 0 <= label < len(class_names):
        raise SourceError(f"{where}: class {old!r} is unknown; there are 1 to {len(class_names)}, or their names")
    if label in chosen:
        raise SourceError(f"{where}: class {old!r} is named twice")
    chosen[label] = new or class_names[label]


def with_classes(source: ClipSource, chosen: Mapping[int, str]) -> ClipSource:
    """Keep the clips of the chosen classes; classes that get one name become one, numbered as they are named."""
    if not chosen:
        raise SourceError("--classes names no class")
    names = list(dict.fromkeys(chosen.values()))
    new = {old: names.index(name) for old, name in chosen.items()}
    label_N = source.columns["label"]
    kept_N = np.isin(label_N, list(new))
    if not kept_N.any():
        raise SourceError(f"no clip is of the classes that --classes names: {', '.join(names)[:80]}")
    columns = {key: value[kept_N] for key, value in source.columns.items()}
    columns["label"] = np.array([new[int(label)] for label in columns["label"]], np.int64)
    return replace(
        source,
        class_names=names,
        entries=[entry for entry, kept in zip(source.entries, kept_N, strict=True) if kept],
        columns=columns,
        given={key: value[kept_N] for key, value in source.given.items()},
        protocols={key: value[kept_N] for key, value in source.protocols.items()},
    )


def _text(path: Path) -> bytes:
    try:
        return read_file(str(path), str(path))
    except SkeletonError as error:
        raise SourceError(str(error)) from None

"""Labels and texts of array files in the forms that people save: integers, floats, text, bytes, columns, one-hot."""

from __future__ import annotations

import numpy as np

from preprocessing.sources.entries import SourceError

MOST_CLASSES = 10_000
"""Above it, labels are identifiers; a network has an output per class, and a name is made for each."""


def label_array(where: object, label: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Return labels as (N,) int64 or text, and the number of classes that a one-hot array has, else 0.

    Args:
        where: The file, for messages.
        label: Array as saved.
        count: Number of clips N.

    Raises:
        SourceError: Its shape, type or values are not labels.
    """
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim == 2 and len(label) == count and label.dtype.kind in "biuf":
        if not (np.isin(label, (0, 1)).all() and (label.sum(axis=1) == 1).all()):
            raise SourceError(
                f"{where}: label has shape {label.shape} and is not one-hot: each row needs one 1. Save one integer per"
                " clip."
            )
        return label.argmax(axis=1).astype(np.int64), label.shape[1]
    if label.shape != (count,):
        raise SourceError(f"{where}: label has shape {label.shape}; expected one value for {count} clips")
    if label.dtype.kind in "SU":
        return texts(where, "label", label), 0
    whole = label.dtype.kind in "biu" or (label.dtype.kind == "f" and np.array_equal(label, np.trunc(label)))
    if not whole or not np.isfinite(label).all():
        raise SourceError(
            f"{where}: label has type {label.dtype}: label must hold integers from 0, or text. Save label.astype(int)."
        )
    if count and label.min() < 0:
        raise SourceError(
            f"{where}: label {int(label.min())} of clip {int(label.argmin())} is negative: label must hold integers"
            " from 0, or text."
        )
    if count:
        check_label(f"{where}: label", int(label.max()))
    return label.astype(np.int64), 0


def check_label(what: str, highest: int) -> None:
    """Raise SourceError for a highest label that cannot be the number of a class."""
    if highest >= MOST_CLASSES:
        raise SourceError(f"{what} {highest} is too large: labels count classes from 0, below {MOST_CLASSES}.")


def texts(where: object, key: str, values: np.ndarray) -> np.ndarray:
    """Return an array as text; SourceError for bytes that are not UTF-8."""
    if values.dtype.kind != "S":
        return values.astype(str)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        raise SourceError(f"{where}: {key} is not UTF-8 text. Save it as {key}.astype(str).") from None


def distinct(where: object, key: str, values: list[str]) -> list[str]:
    """Return names; SourceError if one occurs twice."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise SourceError(f"{where}: {key} has {value!r} twice. Give each a name of its own.")
        seen.add(value)
    return values

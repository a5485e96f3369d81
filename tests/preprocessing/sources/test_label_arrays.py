"""Labels of arrays in the forms that people save."""

import numpy as np
import pytest

from preprocessing.sources import SourceError
from preprocessing.sources.label_arrays import distinct, label_array

LABEL = np.array([0, 2, 1, 2])


@pytest.mark.parametrize(
    ("saved", "classes"),
    [
        (LABEL, 0),
        (LABEL.astype(float), 0),
        (LABEL.astype(np.uint8)[:, None], 0),
        (np.eye(3)[LABEL], 3),
        (np.eye(5, dtype=bool)[LABEL], 5),
    ],
)
def test_integers_floats_columns_and_one_hot_rows_are_labels(saved: np.ndarray, classes: int) -> None:
    label, found = label_array("a.npz", saved, 4)
    assert label.dtype == np.int64
    assert (label.tolist(), found) == (LABEL.tolist(), classes)


def test_bytes_are_text() -> None:
    assert label_array("a.npz", np.array([b"a", b"b"]), 2)[0].tolist() == ["a", "b"]
    with pytest.raises(SourceError, match="label is not UTF-8 text"):
        label_array("a.npz", np.array([b"\xff"]), 1)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (LABEL[:3], r"label has shape \(3,\); expected one value for 4 clips"),
        (LABEL - 1, "label -1 of clip 0 is negative"),
        (LABEL + 0.5, "label has type float64: label must hold integers from 0, or text"),
        (np.array([0, 1, np.nan, 0]), "integers from 0"),
        (np.full((4, 3), 0.3), "is not one-hot"),
        (LABEL * 10**9, "label 2000000000 is too large: labels count classes from 0, below 10000"),
        (np.array([0, 1, np.inf, 0]), "integers from 0"),
    ],
)
def test_what_is_no_label_is_named(saved: np.ndarray, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        label_array("a.npz", saved, 4)


def test_names_are_distinct() -> None:
    assert distinct("a.npz", "class_names", ["a", "b"]) == ["a", "b"]
    with pytest.raises(SourceError, match="class_names has 'a' twice"):
        distinct("a.npz", "class_names", ["a", "a"])

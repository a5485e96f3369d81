"""Rows of bodies: first rows, slots, and one clip out of many."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.hdf5 import body_index, clip_present, clip_rows, first_rows, open_file
from tests.preprocessing.hdf5.examples import T, contents, rows, write_to


def test_bodies_follow_each_other_clip_after_clip() -> None:
    index = body_index(np.array([5, 3, 4]), np.array([1, 2, 1]))
    assert index.first_body_N.tolist() == [0, 1, 3]
    assert index.clip_B.tolist() == [0, 1, 1, 2]
    assert index.slot_B.tolist() == [0, 0, 1, 0]
    assert index.start_B.tolist() == [0, 5, 8, 11]


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """The small file with the two bodies of its second clip in swapped slots."""
    return write_to(tmp_path / "a.h5", replace(contents(), body_slot=np.array([0, 1, 0])))


def test_a_clip_has_its_bodies_in_their_slots(swapped: Path) -> None:
    file = open_file(swapped)
    assert np.array_equal(clip_rows(file, 0), rows()[:1])
    assert np.array_equal(clip_rows(file, 1), rows()[[2, 1]])
    assert clip_present(file, 1).tolist() == [[True] * T] * 2
    assert clip_rows(file, 1).dtype == np.float32
    assert clip_present(file, 1).dtype == bool


def test_a_slot_without_a_body_has_no_first_row(swapped: Path) -> None:
    file = open_file(swapped)
    assert first_rows(file).tolist() == [[0, -1], [2 * T, T]]
    assert first_rows(file, slots=3).shape == (2, 3)

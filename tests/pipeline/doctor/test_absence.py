"""absence.py: a shift of the share of absent joints between splits is a finding; equal shares are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.doctor.absence import absence
from preprocessing.gaps import absent_shares
from preprocessing.hdf5 import clip_tracked, open_file
from tests.conftest import write_file


def test_shares_are_those_of_the_marks(tmp_path: Path) -> None:
    file = open_file(write_file(tmp_path / "a.h5", clips=16, gaps=0.2))
    for clip, share in enumerate(absent_shares(file)):
        marks = clip_tracked(file, clip)
        assert marks is not None
        present = marks.any(axis=2)
        assert share == np.count_nonzero(~marks[present]) / marks[present].size


def test_equal_shares_are_no_finding_and_a_shift_is(tmp_path: Path) -> None:
    file = open_file(write_file(tmp_path / "a.h5", clips=80, gaps=0.08))
    train, test = np.arange(40), np.arange(40, 80)
    same = absence(file, train, test, "test")
    assert not same["shifted"]
    assert same["text"].startswith("Absent joints: 7.9% in train, 7.9% in test.")
    assert file.tracked_RV is not None
    tracked = np.array(file.tracked_RV)
    last = int(file.body_start[file.body_clip == 40][0])
    tracked[last:, 3] = False
    moved = absence(replace(file, tracked_RV=tracked), train, test, "test")
    assert moved["shifted"]
    assert "--fill" in moved["text"]
    assert moved["eval"] > same["eval"] + 0.05


def test_a_file_without_gaps_has_nothing_to_say(data_file: Path) -> None:
    assert absence(open_file(data_file), np.arange(4), np.arange(4, 8), "test") == {}

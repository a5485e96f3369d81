"""Schema 2: absent joints, other channels, another unit; a file that needs none of them stays schema 1."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import SkeletonFile, Spool, clip_tracked, open_file, verify, write
from tests.preprocessing.hdf5.examples import T, V, contents, rows, write_to


def write_gaps(path: Path, marks: np.ndarray, tracked: Any = bool) -> SkeletonFile:
    """The small file; the second of its three bodies has `marks` (T, V)."""
    with Spool(path.parent, V, tracked=tracked) as spool:
        for body, joints_TV3 in enumerate(rows()):
            present_T = np.arange(T) > 0 if body == 0 else np.ones(T, bool)
            spool.append(joints_TV3 * present_T[:, None, None], present_T, marks if body == 1 else None)
        write(path, contents(), spool)
    return open_file(path)


def test_a_file_without_gaps_is_schema_1(tmp_path: Path) -> None:
    file = open_file(write_to(tmp_path / "a.h5"))
    with h5py.File(file.path) as opened:
        assert opened.attrs["schema"] == b"skelnorm/1"
        assert "tracked" not in opened["frames"]
        assert "channels" not in opened.attrs
    assert (file.tracked_RV, clip_tracked(file, 0), file.channels, file.unit) == (None, None, ("x", "y", "z"), "m")


def test_marks_come_back_beside_the_rows_of_their_body(tmp_path: Path) -> None:
    """A body without a gap has all joints where it is present, and none where it is not."""
    marks = np.random.default_rng(1).random((T, V)) < 0.7
    file = write_gaps(tmp_path / "a.h5", marks)
    with h5py.File(file.path) as opened:
        assert opened.attrs["schema"] == b"skelnorm/2"
    assert file.tracked_RV is not None
    np.testing.assert_array_equal(file.tracked_RV[:T], np.repeat(np.arange(T) > 0, V).reshape(T, V))
    tracked_MTV = clip_tracked(file, 1)
    assert tracked_MTV is not None
    assert tracked_MTV.dtype == bool
    np.testing.assert_array_equal(tracked_MTV, np.stack([marks, np.ones_like(marks)]))
    assert verify(file.path) == []


def test_scores_are_kept_in_half_precision(tmp_path: Path) -> None:
    scores = np.random.default_rng(1).random((T, V)).astype(np.float16)
    tracked_MTV = clip_tracked(write_gaps(tmp_path / "a.h5", scores, np.float16), 1)
    assert tracked_MTV is not None
    assert tracked_MTV.dtype == np.float16
    np.testing.assert_array_equal(tracked_MTV[0], scores)
    assert (tracked_MTV[1] == 1).all()


def test_a_changed_mark_is_found(tmp_path: Path) -> None:
    path = write_gaps(tmp_path / "a.h5", np.ones((T, V), bool)).path
    with h5py.File(path, "r+") as opened:
        opened["frames/tracked"][3, 0] = False
    with pytest.raises(IntegrityError, match="frames/tracked does not match its sha256"):
        open_file(path)


def test_marks_in_a_file_of_schema_1_are_rejected(tmp_path: Path) -> None:
    path = write_to(tmp_path / "a.h5")
    with h5py.File(path, "r+") as opened:
        opened["frames/tracked"] = np.ones((3 * T, V), bool)
        opened["frames/tracked"].attrs["sha256"] = np.bytes_(b"0" * 64)
    with pytest.raises(IntegrityError, match="frames/tracked is unexpected in schema skelnorm/1"):
        open_file(path, fast_start=True)


def test_two_channels_and_their_unit_are_kept(tmp_path: Path) -> None:
    with Spool(tmp_path, V, channels=2) as spool:
        for joints_TV3 in rows():
            spool.append(joints_TV3[..., :2], np.ones(T, bool))
        with pytest.raises(ValueError, match="3 names of channels for 2 channels"):
            write(tmp_path / "a.h5", contents(), spool)
        write(tmp_path / "a.h5", replace(contents(), channels=("x", "y"), unit="px"), spool)
    file = open_file(tmp_path / "a.h5")
    assert (file.channels, file.unit, file.tracked_RV) == (("x", "y"), "px", None)
    np.testing.assert_array_equal(file.joints_RV3, rows()[..., :2].reshape(-1, V, 2))

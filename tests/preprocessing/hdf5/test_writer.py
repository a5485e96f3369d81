"""A file reads back as written, the same contents give the same bytes, and nothing inconsistent is published."""

import errno
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import Spool, open_file, write
from preprocessing.hdf5 import __main__ as child
from tests.preprocessing.hdf5.examples import T, V, contents, rows, write_to


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_to(tmp_path / "a.h5")


def test_a_file_reads_back_as_written(file: Path) -> None:
    opened, wrote = open_file(file), contents()
    assert np.array_equal(opened.joints_RV3, rows().reshape(-1, V, 3))
    assert opened.present_R.all()
    assert opened.joint_names == wrote.joint_names
    assert opened.clips["name"].tolist() == ["a", "bé"]
    assert opened.splits["xsub"]["val"].tolist() == []
    assert opened.recipe == wrote.recipe
    assert opened.bones.tolist() == [[0, 1], [1, 2]]
    assert isinstance(opened.joints_RV3, np.memmap)


def test_only_the_file_is_left(file: Path) -> None:
    assert [path.name for path in file.parent.iterdir()] == ["a.h5"]


def test_the_same_contents_give_the_same_bytes(file: Path) -> None:
    time.sleep(1.1)  # HDF5 stores times in seconds, if it stores any
    assert write_to(file.with_name("b.h5")).read_bytes() == file.read_bytes()


def test_another_content_has_another_hash(file: Path) -> None:
    other = write_to(file.with_name("b.h5"), replace(contents(), fps=15.0))
    assert open_file(other).content_sha256 != open_file(file).content_sha256


CLIPS = contents().clips
INVALID = {
    "bodies/start": ({"body_start": np.array([0, T, 2 * T + 1])}, "bodies/start or clips/frames points beyond"),
    "bodies/start negative": ({"body_start": np.array([0, -1, 2 * T])}, "bodies/start is out of range"),
    "bodies/clip": ({"body_clip": np.array([0, 1, 2])}, "bodies/clip is out of range"),
    "bodies/slot": ({"body_slot": np.array([0, 0, 2])}, "bodies/slot is out of range"),
    "bodies/slot too few": ({"body_slot": np.array([0, 0])}, r"bodies/slot has shape \(2,\), expected B = 3"),
    "clips/label": ({"class_names": ["stand"]}, "clips/label is out of range"),
    "clips/frames": ({"clips": CLIPS | {"frames": np.array([T, 0])}}, "clips/frames is out of range"),
    "clips/bodies": ({"clips": CLIPS | {"bodies": np.array([1, 3])}}, "clips/first_body or clips/bodies points beyond"),
    "clips/bodies none": ({"clips": CLIPS | {"bodies": np.array([1, 0])}}, "clips/bodies is out of range"),
    "clips/camera too few": ({"clips": CLIPS | {"camera": np.array([1])}}, r"clips/camera has shape \(1,\)"),
    "bones": ({"bones": np.array([[0, 1], [1, 3]])}, "bones is out of range"),
    "default protocol": ({"default_protocol": "xview"}, "default_protocol 'xview' is not among the splits"),
    "clip in two parts": (
        {"splits": {"xsub": {"train": np.array([0]), "val": np.array([0]), "test": np.array([1])}}},
        "splits/xsub names a clip twice",
    ),
    "clip that does not exist": (
        {"splits": {"xsub": {"train": np.array([0]), "val": np.array([2]), "test": np.array([1])}}},
        "splits/xsub/val is out of range",
    ),
}


def test_numbers_that_do_not_match_are_never_published(tmp_path: Path) -> None:
    for change, fault in INVALID.values():
        with pytest.raises(IntegrityError, match=fault):
            write_to(tmp_path / "a.h5", replace(contents(), **change))  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []


def test_a_writer_whose_parent_is_gone_leaves_the_rows_alone(tmp_path: Path) -> None:
    for _ in range(5):
        # Its input is at its end from the start, as if the parent had died before the child was awake.
        command = [sys.executable, "-m", "preprocessing.hdf5", str(tmp_path)]
        with Spool(tmp_path, V, keep=True) as spool:
            spool.append(rows()[0], np.ones(T, bool))
        (tmp_path / "root.json").write_text(json.dumps({"joint_names": ["a"] * V, "digests": {}}))
        before = (tmp_path / "joints").read_bytes()
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        assert child.returncode == 1
        assert (tmp_path / "joints").read_bytes() == before
        assert not (tmp_path / "shell.h5").exists()


def test_too_little_space_is_reported_before_the_child_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, (1 << 20) - 1))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("the child was started"))
    with pytest.raises(OSError, match="needed") as caught:
        write_to(tmp_path / "a.h5")
    assert caught.value.errno == errno.ENOSPC


def spooled(folder: Path) -> Spool:
    """The rows of the small file in a folder of their own, and what the writer hands to its child."""
    spool = Spool(folder, V, keep=True)
    for body in rows():
        spool.append(body, np.ones(T, bool))
    return spool


def test_a_file_that_reads_back_differently_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first byte of the rows changes after they were handed over, as on a disk that lies."""
    honest = child.sync_file

    def corrupt(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[child.rows_offset(V)] ^= 1
        path.write_bytes(content)
        honest(path)

    with spooled(tmp_path) as spool:
        monkeypatch.setattr(subprocess, "Popen", _stop)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a.h5", contents(), spool)
        monkeypatch.setattr(child, "sync_file", corrupt)
        with pytest.raises(IntegrityError, match="frames/joints read back differs"):
            child.complete(tmp_path)


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_joint_names_must_match_the_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 joint names for 3 joints"):
        write_to(tmp_path / "a.h5", replace(contents(), joint_names=["hip", "knee"]))


def test_rows_of_another_shape_are_rejected(tmp_path: Path) -> None:
    with Spool(tmp_path, V) as spool:
        for joints, present in ((np.zeros((T, V + 1, 3)), np.ones(T)), (np.zeros((T, V, 3)), np.ones(T - 1))):
            with pytest.raises(ValueError, match="do not match"):
                spool.append(joints, present)
        assert [spool.append(np.zeros((T, V, 3)), np.ones(T, bool)) for _ in range(2)] == [0, T]

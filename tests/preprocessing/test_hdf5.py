"""A file reads back as written, the same contents give the same bytes, and damage is named."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import Contents, Spool, open_file, verify, write

T, V = 7, 3


def contents() -> Contents:
    one = np.array([0, 1], np.int64)
    zero = np.zeros(2, np.int64)
    return Contents(
        dataset="test",
        recipe={"name": "exact", "stages": []},
        joint_names=["hip", "knee", "füße"],
        bones=np.array([[0, 1], [1, 2]]),
        fps=30.0,
        class_names=["stand", "go"],
        body_clip=np.array([0, 1, 1]),
        body_slot=np.array([0, 0, 1]),
        body_start=np.array([0, T, 2 * T]),
        clips={
            "name": np.array(["a", "bé"]), "label": one, "setup": zero, "camera": zero, "subject": one,
            "replication": zero, "frames": np.array([T, T]), "first_body": one, "bodies": np.array([1, 2]),
        },
        splits={"xsub": {"train": np.array([0]), "val": np.array([], int), "test": np.array([1])}},
        default_protocol="xsub",
    )  # fmt: skip


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, T, V, 3)).astype(np.float32)


def write_to(path: Path, what: Contents | None = None) -> Path:
    with Spool(path.parent, V) as spool:
        for body in rows():
            spool.append(body, np.ones(T, bool))
        write(path, what or contents(), spool)
    return path


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
    assert write_to(file.with_name("b.h5")).read_bytes() == file.read_bytes()


def test_another_content_has_another_hash(file: Path) -> None:
    other = write_to(file.with_name("b.h5"), replace(contents(), fps=15.0))
    assert open_file(other).content_sha256 != open_file(file).content_sha256


def damage(file: Path, name: str) -> None:
    with h5py.File(file, "r") as opened:
        offset = opened[name].id.get_offset()
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["frames/joints", "frames/present", "clips/name", "bodies/start", "splits/xsub/train"])
def test_a_flipped_bit_is_named_with_its_array_and_the_remedy(file: Path, name: str) -> None:
    damage(file, name)
    with pytest.raises(IntegrityError, match=f"{name} does not match its sha256; build it again"):
        open_file(file)
    assert verify(file) == [f"{name} does not match its sha256"]


def test_a_fast_start_does_not_read_the_frames(file: Path) -> None:
    damage(file, "frames/joints")
    assert open_file(file, fast_start=True).dataset == "test"


def test_a_changed_attribute_is_found(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened.attrs["fps"] = np.float64(25)
    with pytest.raises(IntegrityError, match="content_sha256"):
        open_file(file)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_file_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(IntegrityError, match="build it again"):
        open_file(file)
    assert verify(file)


def test_a_stranger_in_the_file_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["frames/colour"] = [1, 2]
    assert verify(file) == ["frames/colour is unexpected"]


def test_data_outside_the_file_is_refused(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        del opened["frames/present"]
        opened.create_dataset("frames/present", (3 * T,), bool, external=[("/etc/hostname", 0, 3 * T)])
    assert verify(file) == ["frames/present is not stored plainly in this file"]
    with h5py.File(file, "r+") as opened:
        del opened["frames/present"]
        opened["frames/present"] = h5py.ExternalLink("other.h5", "/x")
    assert verify(file) == ["frames/present is a link to another place"]


def test_a_missing_array_is_named(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        del opened["clips/label"]
    assert verify(file) == ["clips/label is missing"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"body_start": np.array([0, T, 2 * T + 1])}, "bodies/start"),
        ({"body_clip": np.array([0, 1, 2])}, "bodies/clip"),
        ({"default_protocol": "xview"}, "default_protocol"),
        ({"class_names": ["stand"]}, "clips/label"),
        ({"splits": {"xsub": {"train": np.array([0]), "val": np.array([0]), "test": np.array([1])}}}, "twice"),
    ],
)
def test_numbers_that_do_not_fit_are_never_published(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    with pytest.raises(IntegrityError, match=fault):
        write_to(tmp_path / "a.h5", replace(contents(), **change))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m preprocessing\.build"):
        open_file(tmp_path / "none.h5")


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

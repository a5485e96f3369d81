"""UTD-MHAD's MATLAB files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources
from preprocessing.sources.matlab import read_matlab
from tests.preprocessing.sources.formats import only, walk


def save(folder: Path, **options: bool) -> Path:
    folder.mkdir()
    for action, subject in ((1, 1), (3, 2), (27, 3)):
        d_skel = walk(8 + action, 20, action).transpose(1, 2, 0).astype(np.float64)
        savemat(folder / f"a{action}_s{subject}_t1_skeleton.mat", {"d_skel": d_skel, "note": "text"}, **options)
    return folder


@pytest.mark.parametrize("compressed", [False, True])
def test_clips_equal_the_files(tmp_path: Path, compressed: bool) -> None:
    source = open_sources([save(tmp_path / "Skeleton", do_compression=compressed)])
    assert [entry.name for entry in source.entries] == ["a1_s1_t1", "a27_s3_t1", "a3_s2_t1"]
    assert source.columns["label"].tolist() == [0, 26, 2]
    assert source.columns["subject"].tolist() == [1, 3, 2]
    assert (len(source.class_names), source.class_names[26]) == (27, "squat")
    assert source.joint_names[:4] == ["head", "shoulder centre", "spine", "hip centre"]
    for entry, action in zip(source.entries, (1, 27, 3), strict=True):
        assert np.array_equal(only(entry.read()), walk(8 + action, 20, action))


def test_a_damaged_file_is_rejected_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "Skeleton")
    whole = (folder / "a1_s1_t1_skeleton.mat").read_bytes()
    (folder / "a4_s1_t1_skeleton.mat").write_bytes(whole[:900])
    savemat(folder / "a5_s1_t1_skeleton.mat", {"other": np.zeros((3, 3)), "d_skel": np.zeros((3, 4))})
    savemat(folder / "a6_s1_t1_skeleton.mat", {"d_skel": np.zeros((19, 3, 7))})
    reasons = {}
    for entry in open_sources([folder]).entries:
        try:
            entry.read()
        except SkeletonError as error:
            reasons[entry.name] = error.reason
    assert reasons == {"a4_s1_t1": "unreadable", "a5_s1_t1": "bad-form", "a6_s1_t1": "joint-count"}


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_bytes_give_an_array_or_one_line(tmp_path: Path, compressed: bool) -> None:
    """SciPy's reader ends the process on some of these."""
    folder = save(tmp_path / "Skeleton", do_compression=compressed)
    path = folder / "a1_s1_t1_skeleton.mat"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[rng.integers(128, 400)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            open_sources([path]).entries[0].read()
        except (SourceError, SkeletonError) as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)


def test_a_file_of_matlab_7_3_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))
    with pytest.raises(SourceError, match="is a MATLAB 7.3 file. Save it with -v7"):
        open_sources([tmp_path / "a.mat"])


def test_numbers_of_every_type_are_read_and_other_variables_left_out(tmp_path: Path) -> None:
    variables = {
        "d": np.arange(6.0).reshape(2, 3), "f": np.float32([[1.5]]), "i": np.int16([[1, -2]]), "text": "abc",
        "cell": np.array([[1, "a"]], object), "struct": {"x": 1}, "complex": np.array([[1j]]),
    }  # fmt: skip
    savemat(tmp_path / "a.mat", variables)
    arrays = read_matlab((tmp_path / "a.mat").read_bytes())
    assert {key: value.tolist() for key, value in arrays.items()} == {
        "d": [[0, 1, 2], [3, 4, 5]], "f": [[1.5]], "i": [[1, -2]],
    }  # fmt: skip

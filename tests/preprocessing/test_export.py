"""Exports hold the values of the file, in the shapes and the order of other programs."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing import export
from preprocessing.build import main as build
from preprocessing.hdf5 import open_file


def run(*arguments: object) -> int:
    return export.main([str(argument) for argument in arguments])


@pytest.fixture
def built(recordings: Path, tmp_path: Path) -> Path:
    """A file of 24 clips, 12 of them with two bodies."""
    out = tmp_path / "a.h5"
    assert build([str(recordings), "--out", str(out)]) == 0
    return out


def test_dense_holds_every_clip_resampled_with_an_empty_slot_zero(built: Path, tmp_path: Path) -> None:
    assert run(built, "--format", "dense", "--out", tmp_path / "d.h5", "--frames", 20) == 0
    file = open_file(built)
    with h5py.File(tmp_path / "d.h5") as dense:
        x_NCTVM, y_N = dense["x"][:], dense["y"][:]
        assert dense["splits/xsub/test"][:].tolist() == file.splits["xsub"]["test"].tolist()
        assert [name.decode() for name in dense["name"]] == file.clips["name"].tolist()
    assert x_NCTVM.shape == (24, 3, 20, 25, 2)
    assert np.array_equal(y_N, file.clips["label"])
    for clip in range(24):
        rows_MTV3 = export.clip_rows(file, clip)
        assert np.allclose(x_NCTVM[clip].transpose(3, 1, 2, 0)[: len(rows_MTV3)], rows_MTV3, atol=1e-6)
        assert len(rows_MTV3) == 2 or not x_NCTVM[clip, ..., 1].any()


def test_no_body_is_pulled_half_way_to_the_origin() -> None:
    joints = np.full((1, 4, 1, 3), 8.0, np.float32)
    joints[:, 2:] = 0
    present = np.array([[True, True, False, False]])
    assert set(export.resample(joints, present, 64).ravel().tolist()) == {0.0, 8.0}
    naive = np.interp(np.linspace(0, 3, 64), np.arange(4), joints[0, :, 0, 0])
    assert ((naive > 0.1) & (naive < 7.9)).any(), "plain interpolation would pull it"


def test_resampling_is_linear_where_a_body_is_tracked_and_takes_the_nearer_frame_where_it_is_not() -> None:
    """Four frames at 7 points: each second point lies half-way, and then the later frame is the nearer."""
    joints = np.array([1, 2, 4, 0], np.float32)[None, :, None, None] * np.ones((1, 4, 1, 3), np.float32)
    present = np.array([[True, True, True, False]])
    resampled = export.resample(joints, present, 7)
    assert resampled.dtype == np.float32
    assert resampled[0, :, 0, 0].tolist() == [1, 1.5, 2, 3, 4, 0, 0]
    third = export.resample(joints, present, 10)[0, :, 0, 0]
    np.testing.assert_allclose(third, [1, 4 / 3, 5 / 3, 2, 8 / 3, 10 / 3, 4, 4, 0, 0], rtol=1e-6)


def test_ctr_arrays_are_ordered_and_one_hot_and_val_counts_as_train(built: Path, tmp_path: Path) -> None:
    assert run(built, "--format", "ctr", "--out", tmp_path / "c.npz") == 0
    file = open_file(built)
    parts = file.splits["xsub"]
    with np.load(tmp_path / "c.npz", allow_pickle=False) as saved:
        arrays = {key: saved[key] for key in saved.files}
    assert arrays["x_train"].shape == (len(parts["train"]) + len(parts["val"]), 20, 150)
    assert arrays["x_test"].shape == (len(parts["test"]), 20, 150)
    assert arrays["y_train"].shape[1] == 60
    assert np.all(arrays["y_train"].sum(axis=1) == 1)
    order = export.official_order(file, "xsub", parts["test"])
    assert np.all(np.diff(file.clips["subject"][order]) >= 0)
    assert np.array_equal(arrays["y_test"].argmax(axis=1), file.clips["label"][order])
    one = int(np.flatnonzero(file.clips["bodies"][order] == 1)[0])
    assert not arrays["x_test"][one, :, 75:].any()


def test_the_lone_actor_of_ntu_120_is_doubled_by_default(recordings: Path, tmp_path: Path) -> None:
    for path in recordings.iterdir():
        path.rename(path.with_name(path.name.replace("A050", "A100")))
    built = tmp_path / "a.h5"
    assert build([str(recordings), "--out", str(built)]) == 0
    for second, copied in (("", True), ("zeros", False), ("copy", True)):
        assert run(built, "--format", "ctr", "--out", tmp_path / "c.npz", "--second", second) == 0
        with np.load(tmp_path / "c.npz") as saved:
            assert np.array_equal(saved["x_train"][0, :, :75], saved["x_train"][0, :, 75:]) == copied


def test_an_export_imports_again_and_a_second_export_has_the_same_bytes(built: Path, tmp_path: Path) -> None:
    assert run(built, "--format", "ctr", "--out", tmp_path / "c.npz") == 0
    assert run(built, "--format", "ctr", "--out", tmp_path / "d.npz") == 0
    assert (tmp_path / "c.npz").read_bytes() == (tmp_path / "d.npz").read_bytes()
    assert build([str(tmp_path / "c.npz"), "--out", str(tmp_path / "again.h5")]) == 0
    again = open_file(tmp_path / "again.h5")
    assert len(again.clips["name"]) == 24
    assert again.default_protocol == "split"


def test_the_real_golden_clips_export_as_the_original_saved_them(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "eleven"
    folder.mkdir()
    for path in (real_data / "ntu_raw").glob("S017C003P020R002A0*.skeleton"):
        (folder / path.name).symlink_to(path)
    assert build([str(folder), "--out", str(tmp_path / "a.h5"), "--recipe", "ctr"]) == 0
    assert run(tmp_path / "a.h5", "--format", "ctr", "--out", tmp_path / "c.npz") == 0
    with np.load(real_data / "ctr_golden" / "NTU60_CS.npz") as golden, np.load(tmp_path / "c.npz") as made:
        for key in golden.files:
            assert np.array_equal(golden[key], made[key]), key
            assert golden[key].dtype == made[key].dtype


@pytest.mark.parametrize("width", [2, 3])
def test_pyskl_annotations_come_back_equal_in_pyskl_and_here(tmp_path: Path, width: int) -> None:
    """Other programs read an ordinary pickle; a build of it has the same rows, scores, labels and test parts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 2, 17, width)).astype(np.float32) + 5
    score = rng.uniform(0.1, 1, x.shape[:3]).astype(np.float16)
    score[::7, 0, 3] = 0
    x[:60, 1], score[:60, 1] = 0, 0
    arrays = {"X": x, "ptr": np.arange(0, 241, 20), "label": np.arange(12) % 3, "subject": np.arange(12) % 4}
    np.savez(tmp_path / "a.npz", **arrays, **({"score": score} if width == 2 else {}))
    assert build([str(tmp_path / "a.npz"), "--out", str(tmp_path / "a.h5"), "--layout", "coco17"]) == 0
    assert run(tmp_path / "a.h5", "--format", "pyskl", "--out", tmp_path / "a.pkl") == 0
    one = open_file(tmp_path / "a.h5")
    loaded = pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert loaded["split"]["xsub_val"] == one.clips["name"][one.splits["xsub"]["test"]].tolist()
    for clip, annotation in enumerate(loaded["annotations"]):
        assert annotation["frame_dir"] == one.clips["name"][clip]
        assert np.array_equal(annotation["keypoint"], export.clip_rows(one, clip))
        assert annotation["total_frames"] == 20
    assert build([str(tmp_path / "a.pkl"), "--out", str(tmp_path / "b.h5"), "--layout", "coco17"]) == 0
    other = open_file(tmp_path / "b.h5")
    assert other.channels == one.channels
    assert np.array_equal(other.joints_RV3, one.joints_RV3)
    assert (other.tracked_RV is None) == (one.tracked_RV is None) == (width == 3)
    assert width == 3 or np.array_equal(other.tracked_RV, one.tracked_RV)
    for key in ("name", "label", "bodies", "frames"):
        assert np.array_equal(other.clips[key], one.clips[key])
    assert np.array_equal(other.splits["xsub"]["test"], one.splits["xsub"]["test"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{built}", "--format", "ctr", "--out", "{tmp}/c.h5"], 2, "must end in .npz"),
        (["{built}", "--format", "dense", "--out", "{built}"], 2, "is the input file"),
        (["{built}", "--format", "dense", "--out", "{tmp}/d.h5", "--frames", "1"], 2, "must be at least 2"),
        (["{built}", "--format", "ctr", "--out", "{tmp}/c.npz", "--protocol", "xsup"], 2, "has xsub, xview"),
        (["{built}", "--format", "ctr", "--out", "{tmp}/c.npz", "--second", "x"], 2, "zeros, copy"),
        (["{tmp}/none.h5", "--format", "ctr", "--out", "{tmp}/c.npz"], 2, "does not exist"),
        (["{tmp}/bad.h5", "--format", "ctr", "--out", "{tmp}/c.npz"], 6, "build it again"),
    ],
)
def test_a_mistake_gets_one_line(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "bad.h5").write_bytes(built.read_bytes()[:5000])
    assert run(*(text.format(tmp=tmp_path, built=built) for text in arguments)) == code
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


def test_a_dense_export_bridges_gaps_and_leaves_no_joint_halfway_to_the_origin(tmp_path: Path) -> None:
    """Equal to the export of the file without gaps but for the interpolated joints."""
    from tests.preprocessing.test_build_gaps import coordinates, make, save

    whole, x = make(save(tmp_path / "whole.npz", coordinates())), coordinates()
    x[15, 0, 2] = 0
    gaps = make(save(tmp_path / "gaps.npz", x))
    made = []
    for file in (whole, gaps):
        out = file.path.with_name(f"{file.path.stem}_dense.h5")
        assert export.main([str(file.path), "--format", "dense", "--out", str(out), "--frames", "19"]) == 0
        with h5py.File(out) as opened:
            made.append(opened["x"][:])
    np.testing.assert_allclose(made[0], made[1], atol=0.02)
    changed = np.argwhere((made[0] != made[1]).any(axis=(1, 4)))
    assert {tuple(place[[0, 2]]) for place in changed} == {(1, 2)}

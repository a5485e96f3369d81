"""Array layouts of CTR-GCN and pyskl become our own arrays."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.export import main as export_main
from preprocessing.hdf5 import open_file
from preprocessing.sources import SourceError, open_sources


@pytest.mark.parametrize("bodies", [1, 2])
def test_arrays_as_ctr_gcn_saves_them_import(tmp_path: Path, bodies: int) -> None:
    rng = np.random.default_rng(0)
    x_NT = rng.normal(size=(5, 12, 75 * bodies)).astype(np.float32)
    x_NT[1, 7:] = 0
    x_NT = np.concatenate([x_NT, np.zeros_like(x_NT)], axis=2) if bodies == 1 else x_NT
    y_N = np.eye(4)[[0, 1, 2, 3, 1]]
    np.savez(tmp_path / "CS.npz", x_train=x_NT[:3], y_train=y_N[:3], x_test=x_NT[3:], y_test=y_N[3:])
    source = open_sources([tmp_path / "CS.npz"])
    clips = [entry.read() for entry in source.entries]
    assert [clip.frames for clip in clips] == [12, 7, 12, 12, 12]
    assert [len(clip.tracks) for clip in clips] == [bodies] * 5
    assert source.columns["label"].tolist() == [0, 1, 2, 3, 1]
    assert source.given["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert source.joint_names[20] == "spine shoulder"
    assert np.array_equal(clips[3].tracks[0].joints_FV3.reshape(12, 75), x_NT[3, :, :75])


def test_arrays_as_pyskl_lays_them_out_import(tmp_path: Path) -> None:
    keypoint = np.random.default_rng(0).normal(size=(3, 2, 9, 17, 3)).astype(np.float16)
    keypoint[0, 1] = 0
    np.savez(tmp_path / "a.npz", keypoint=keypoint, total_frames=np.array([9, 5, 9]), label=np.array([0, 1, 2]))
    source = open_sources([tmp_path / "a.npz"])
    clips = [entry.read() for entry in source.entries]
    assert [(clip.frames, len(clip.tracks)) for clip in clips] == [(9, 1), (5, 2), (9, 2)]
    assert np.array_equal(clips[1].tracks[1].joints_FV3, keypoint[1, 1, :5].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((2, 9, 149)), "y_train": np.eye(2)}, "150 values per frame"),
        ({"x_train": np.zeros((2, 9, 150)), "y_train": np.eye(3)}, "one row per clip"),
        ({"x_train": np.zeros((2, 9, 150))}, "has no y_train"),
        ({"keypoint": np.zeros((2, 2, 9, 17, 4)), "label": np.zeros(2, int)}, "2 or 3 coordinates"),
        ({"keypoint": np.zeros((2, 2, 9, 17, 3)), "label": np.zeros(3, int)}, "one value for 2 clips"),
        ({"keypoint": np.zeros((1, 2, 9, 17, 3)), "label": np.zeros(1, int), "total_frames": np.array([10])}, "to 9"),
    ],
)  # fmt: skip
def test_published_arrays_that_do_not_fit_are_rejected_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([tmp_path / "a.npz"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("columns", "first"), [(60, "drink water"), (4, "class 0")])
def test_one_hot_columns_are_the_classes_though_few_occur(tmp_path: Path, columns: int, first: str) -> None:
    x_NT = np.ones((3, 4, 150), np.float32)
    np.savez(tmp_path / "CS.npz", x_train=x_NT, y_train=np.eye(columns)[[0, 1, 1]])
    source = open_sources([tmp_path / "CS.npz"])
    assert len(source.class_names) == columns
    assert source.class_names[0] == first


def test_an_export_comes_back_equal_with_the_copied_second_actor_recognised(recordings: Path, tmp_path: Path) -> None:
    """Export, build, export: the same arrays; a lone actor that was doubled is one body again."""
    assert build([str(recordings), "--out", str(tmp_path / "a.h5"), "--recipe", "ctr"]) == 0
    for second in ("zeros", "copy"):
        made = [tmp_path / f"{second}{turn}.npz" for turn in (1, 2)]
        assert export(tmp_path / "a.h5", made[0], second) == 0
        assert build([str(made[0]), "--out", str(tmp_path / "b.h5"), "--overwrite"]) == 0
        assert export(tmp_path / "b.h5", made[1], second) == 0
        with np.load(made[0]) as one, np.load(made[1]) as other:
            assert all(
                np.array_equal(
                    one[key][np.lexsort(one[key].reshape(len(one[key]), -1).T)],
                    other[key][np.lexsort(other[key].reshape(len(other[key]), -1).T)],
                )
                for key in one.files
            )
        file = open_file(tmp_path / "b.h5")
        assert sorted(file.clips["bodies"].tolist()) == [1] * 12 + [2] * 12
        assert len(file.class_names) == 60


def export(source: Path, out: Path, second: str) -> int:
    return export_main([str(source), "--format", "ctr", "--out", str(out), "--second", second])

"""Array layouts of CTR-GCN and pyskl become our own arrays."""

from pathlib import Path

import numpy as np
import pytest

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
        ({"keypoint": np.zeros((2, 2, 9, 17, 2)), "label": np.zeros(2, int)}, "3 coordinates"),
        ({"keypoint": np.zeros((2, 2, 9, 17, 3)), "label": np.zeros(3, int)}, "one value for 2 clips"),
        ({"keypoint": np.zeros((1, 2, 9, 17, 3)), "label": np.zeros(1, int), "total_frames": np.array([10])}, "to 9"),
    ],
)  # fmt: skip
def test_published_arrays_that_do_not_fit_are_rejected_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([tmp_path / "a.npz"])
    assert "\n" not in str(caught.value)

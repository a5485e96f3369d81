"""build of arrays with absent joints: options, what the file and its manifest say, and a source without gaps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing import build
from preprocessing.hdf5 import SkeletonFile, clip_rows, open_file

CLIPS, T, V = 12, 10, 5


def coordinates() -> np.ndarray:
    """(CLIPS * T, 1, V, 3), each joint far from zero."""
    time = np.arange(CLIPS * T)[:, None, None, None]
    place = np.arange(V)[:, None] + np.arange(3)
    return (3 + place + 0.1 * np.sin(time / 3 + place)).astype(np.float32)


def save(path: Path, x: np.ndarray, **more: Any) -> Path:
    ptr, label = np.arange(0, CLIPS * T + 1, T), np.arange(CLIPS) % 2
    bones = np.stack([np.arange(V - 1), np.arange(1, V)], axis=1)
    np.savez(path, X=x, ptr=ptr, label=label, bones=bones, **more)
    return path


def make(source: Path, *options: str) -> SkeletonFile:
    out = source.with_suffix(".h5")
    assert build.main([str(source), "--out", str(out), "--engine", "threads", "--workers", "1", *options]) == 0
    return open_file(out)


def story(file: SkeletonFile) -> dict[str, Any]:
    return json.loads(file.path.with_suffix(".manifest.json").read_text())


def gappy() -> np.ndarray:
    x = coordinates()
    x[15, 0, 2] = 0
    x[16, 0, 3, 1] = np.nan
    return x


def test_zeros_and_nan_are_absent_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file says so, and how; no other joint changes."""
    file = make(save(tmp_path / "a.npz", gappy()))
    assert file.tracked_RV is not None
    np.testing.assert_array_equal(np.argwhere(~file.tracked_RV), [[15, 2], [16, 3]])
    assert file.recipe["stages"][0] == {"stage": "absent", "zeros": 1, "nan": 1, "origin": -1}
    assert story(file)["counts"]["absent_joints"] == 2
    assert "absent joints: 2 of 600 (0.33%)" in capsys.readouterr().out
    whole = make(save(tmp_path / "b.npz", coordinates()))
    found = file.tracked_RV
    np.testing.assert_array_equal(np.asarray(file.joints_RV3)[found], np.asarray(whole.joints_RV3)[found])
    assert not np.asarray(file.joints_RV3)[~found].any()


def test_a_source_without_gaps_is_built_as_ever(tmp_path: Path) -> None:
    file = make(save(tmp_path / "a.npz", coordinates()))
    assert file.recipe == {"name": "exact", "stages": [{"stage": "centre", "joint": 0}]}
    assert file.tracked_RV is None
    assert "absent_joints" not in story(file)["counts"]


def test_zeros_are_coordinates_on_request(tmp_path: Path) -> None:
    file = make(save(tmp_path / "a.npz", np.nan_to_num(gappy(), nan=5.0)), "--absent", "nan")
    assert file.tracked_RV is None
    assert clip_rows(file, 1)[0, 5, 2, 0] == pytest.approx(-3, abs=0.2)


def test_nan_quarantines_its_clip_on_request(tmp_path: Path) -> None:
    for options in (["--nan", "quarantine"], ["--absent", "none"]):
        file = make(save(tmp_path / "a.npz", gappy()), *options, "--allow-rejects")
        (one,) = story(file)["quarantine"]
        assert (one["name"], one["reason"]) == ("a-000001", "non-finite")
        assert "joint 3 of body 0 in frame 6 is NaN" in one["message"]
        file.path.unlink()


def test_a_joint_that_the_source_has_centred_is_present(tmp_path: Path) -> None:
    """Joint 1 at zero in the first frame of every clip is the origin; any other zero is a gap."""
    x = coordinates().reshape(CLIPS, T, 1, V, 3)
    x = (x - x[:, :1, :, 1:2]).reshape(-1, 1, V, 3)
    x[15, 0, 2] = 0
    file = make(save(tmp_path / "a.npz", x))
    assert file.tracked_RV is not None
    np.testing.assert_array_equal(np.argwhere(~file.tracked_RV), [[15, 2]])
    assert file.recipe["stages"][0]["origin"] == 1


def test_gaps_are_filled_and_smoothed_on_request(tmp_path: Path) -> None:
    file = make(save(tmp_path / "a.npz", gappy()), "--fill", "spline", "--fill-gap", "4", "--smooth", "3")
    assert file.tracked_RV is None
    assert file.recipe["stages"][1:3] == [{"stage": "fill", "gap": 4, "spline": 1}, {"stage": "smooth", "frames": 3}]
    assert {decision["rule"] for decision in story(file)["decisions"]} == {"absent", "fill"}
    whole = make(save(tmp_path / "b.npz", coordinates()), "--smooth", "3")
    np.testing.assert_allclose(file.joints_RV3, whole.joints_RV3, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fill", "linear", "--fill-gap", "0"], "--fill-gap 0 is too small: must be at least 1 frame"),
        (["--smooth", "4"], "--smooth 4 is not a window: must be an odd number of frames from 3"),
    ],
)
def test_settings_that_mean_nothing_are_rejected(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "a.npz", coordinates())
    assert build.main([str(source), "--out", str(tmp_path / "a.h5"), *options]) == 2
    assert message in capsys.readouterr().err

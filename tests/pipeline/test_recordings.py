"""recordings.py: any format for a trained network, joints by name, or the reason why not."""

import dataclasses
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import predict
from pipeline.recordings import cleaned, recordings
from pipeline.run_folder import Metadata
from preprocessing.hdf5 import open_file
from preprocessing.sources import Reading

NAMES = [f"left j{v}" for v in range(5)] + [f"right j{v}" for v in range(5)]
BONES = np.array([[v, v + 1] for v in range(9)])


def metadata(**changes: Any) -> Metadata:
    """Metadata of a network of ten joints, centred on the first."""
    values: dict[str, Any] = {
        "dataset": "d", "recipe": {"stages": [{"stage": "centre", "joint": 0}]}, "joint_names": NAMES,
        "bones": tuple(map(tuple, BONES.tolist())), "fps": 30.0, "class_names": ["a", "b"], "content_sha256": "",
    }  # fmt: skip
    return Metadata(**values | changes)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Two clips whose joints have another order, without labels that mean anything."""
    rng = np.random.default_rng(0)
    path = tmp_path / "poses.npz"
    np.savez(
        path,
        X=rng.normal(0, 1, (30, 1, 10, 3)).astype(np.float32), ptr=np.array([0, 12, 30]), label=np.array([0, 0]),
        bones=9 - BONES, joint_names=np.array(NAMES[::-1]), name=np.array(["one", "two"]),
    )  # fmt: skip
    return path


def test_arrays_are_matched_and_cleaned(arrays: Path) -> None:
    """Joints by name, then the stages of the training data."""
    found = list(recordings(arrays, metadata(), "runs/x"))
    assert [one.name for one in found] == ["one", "two"]
    x = np.load(arrays)["X"][:12, 0, ::-1]
    np.testing.assert_allclose(found[0].clip("x").joints_MTV3[0], x - x[0, 0], atol=1e-6)


def test_a_zip_a_folder_and_stdin_hold_the_same_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    """A .skeleton by four ways."""
    name = "S001C001P001R001A001.skeleton"
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copyfile(real_data / "ntu_raw" / name, folder / name)
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.write(folder / name, name)
    from preprocessing import ntu

    mine = metadata(joint_names=list(ntu.JOINT_NAMES), bones=tuple(map(tuple, ntu.BONES.tolist())))
    content = (folder / name).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    found = [list(recordings(path, mine, "x")) for path in (folder, tmp_path / "raw.zip", folder / name, Path("-"))]
    for one in found:
        assert len(one) == 1
        np.testing.assert_array_equal(one[0].clip("x").joints_MTV3, found[0][0].clip("x").joints_MTV3)


def test_a_data_file_needs_the_stages_of_the_training_data(data_file: Path) -> None:
    """Its clips are finished; other stages, and other joints, are rejected."""
    file = open_file(data_file)
    own = dataclasses.replace(Metadata.of(file), class_names=["x", "y"])
    found = list(recordings(data_file, own, "runs/x"))
    assert len(found) == len(file.clips["name"])
    clip = found[3].clip("x")
    assert clip.present_MT.shape == (2, int(file.clips["frames"][3]))
    assert found[3].raw is not None
    again = cleaned("a part", found[3].raw, found[3].stages, "x")
    np.testing.assert_array_equal(again.joints_MTV3, clip.joints_MTV3)
    np.testing.assert_array_equal(again.present_MT, clip.present_MT)
    with pytest.raises(ValueError, match="other stages: no stage"):
        list(recordings(data_file, dataclasses.replace(own, recipe=metadata().recipe), "runs/x"))


def test_what_does_not_fit_is_named(arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joints, channels, an empty and an unknown standard input, a format that does not exist."""
    with pytest.raises(ValueError, match=r"poses.npz has no nose: runs/x was trained on 10 joints"):
        list(recordings(arrays, metadata(joint_names=["nose", *NAMES[1:]]), "runs/x"))
    with pytest.raises(ValueError, match=r"3 channels per joint, and runs/x was trained on 2"):
        list(recordings(arrays, metadata(channels=2), "runs/x"))
    with pytest.raises(ValueError, match="--format 'nodes' is unknown"):
        list(recordings(arrays, metadata(), "runs/x", Reading(format="nodes")))
    for content, words in ((b"", "Standard input is empty"), (b'{"a": 1}', "standard input is ")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(ValueError, match=words):
            list(recordings(Path("-"), metadata(), "runs/x"))


def test_raw_bodies_need_a_rule_that_chooses(real_data: Path) -> None:
    """Two raw bodies for a network whose data came with chosen bodies: rejected with the reason; one body is fine."""
    from preprocessing import ntu

    mine = metadata(joint_names=list(ntu.JOINT_NAMES), bones=tuple(map(tuple, ntu.BONES.tolist())))
    two = real_data / "ntu_raw" / "S017C003P020R002A050.skeleton"
    (rejected,) = recordings(two, mine, "runs/x")
    assert rejected.raw is None
    assert "2 raw bodies, and the data that runs/x was trained on came with its bodies chosen" in rejected.fault
    rule = [{"stage": "actors", "slots": 2}, *mine.recipe["stages"]]
    (found,) = recordings(two, dataclasses.replace(mine, recipe={"stages": rule}), "runs/x")
    assert found.raw is not None


def test_the_command_answers_each_clip(runs: Path, data_file: Path, tmp_path: Path) -> None:
    """Arrays of the run's joints, a warning about one that is far longer; a missing file costs only itself."""
    file = open_file(data_file)
    rows = int(file.clips["frames"][0])
    x = np.asarray(file.joints_RV3[:rows])[:, None]
    path = tmp_path / "poses.npz"
    np.savez(path, X=np.concatenate([x, *[x] * 8]), ptr=np.array([0, rows, 9 * rows]), label=np.array([0, 0]),
             bones=file.bones, joint_names=np.array(file.joint_names), name=np.array(["short", "long"]))  # fmt: skip
    words = [sys.executable, "-m", "pipeline.predict", str(runs / "none"), str(path), str(tmp_path / "gone.npz")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "gone.npz does not exist" in done.stderr
    assert f"{path}:short" in done.stdout
    assert done.stdout.count("far more than in training") == 1
    predictor = predict.load(runs / "none", torch.device("cpu"))
    assert predictor(x).classes[0] in done.stdout


@pytest.mark.parametrize(("origin", "absent"), [(-1, [[2, 3]]), (1, [[2, 3]])])
def test_gaps_are_marked_though_the_training_data_had_none(
    tmp_path: Path, origin: int, absent: list[list[int]]
) -> None:
    """Its recipe does not name the stage. A joint that the clips are centred on is present at zero."""
    facts = metadata()
    joints = len(facts.joint_names)
    x = np.ones((12, 1, joints, 3), np.float32) + np.arange(12, dtype=np.float32)[:, None, None, None]
    x[2, 0, 3] = 0
    if origin >= 0:
        x[0, 0, origin] = 0
        facts = dataclasses.replace(facts, recipe={"stages": [{"stage": "centre", "joint": origin}]})
    np.savez(
        tmp_path / "a.npz", X=x, ptr=np.array([0, 12]), label=np.array([0]), joint_names=np.array(facts.joint_names)
    )
    (one,) = recordings(tmp_path / "a.npz", facts, "runs/a")
    clip = one.clip("runs/a")
    assert clip.tracked_MTV is not None
    np.testing.assert_array_equal(np.argwhere(~clip.tracked_MTV[0]), absent)

"""Kinetics-skeleton's JSON files."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import open_sources
from tests.preprocessing.sources.formats import only, scored, walk, write_json


def save(path: Path, x_TV3: np.ndarray, label: str) -> None:
    data = [
        {"frame_index": t, "skeleton": [{"pose": one[:, :2].ravel().tolist(), "score": one[:, 2].tolist()}]}
        for t, one in enumerate(x_TV3, 1)
    ]
    write_json(path, {"data": data, "label": label, "label_index": 7})


def test_clips_equal_the_files(tmp_path: Path) -> None:
    for number, label in enumerate(["yoga", "abseiling"]):
        save(tmp_path / f"v{number}.json", scored(walk(9, 18, number, 2)), label)
    write_json(tmp_path / "kinetics_train_label.json", {"v0": {"label": "yoga"}})
    source = open_sources([tmp_path])
    assert source.class_names == ["abseiling", "yoga"]
    assert source.columns["label"].tolist() == [1, 0]
    assert source.joint_names[1] == "neck"
    for number, entry in enumerate(source.entries):
        assert np.array_equal(only(entry.read()), walk(9, 18, number, 2))


def test_a_damaged_file_is_rejected_alone(tmp_path: Path) -> None:
    save(tmp_path / "v0.json", scored(walk(9, 18, 0, 2)), "yoga")
    write_json(tmp_path / "v1.json", {"data": [{"frame_index": 1, "skeleton": [{"pose": [1, 2]}]}], "label": "yoga"})
    first, second = open_sources([tmp_path]).entries
    assert first.read().frames == 9
    with pytest.raises(SkeletonError, match="bad-form: a frame has no valid frame_index, pose or score"):
        second.read()

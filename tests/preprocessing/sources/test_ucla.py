"""NW-UCLA's JSON files: values, labels, views and subjects."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources
from tests.preprocessing.sources.formats import only, walk, write_json


def save(folder: Path, count: int = 12) -> Path:
    for number in range(count):
        name = f"a{1 + number % 4:02d}_s{1 + number // 6:02d}_e{number:02d}_v{1 + number % 3:02d}"
        document = {"file_name": name, "skeletons": walk(9 + number, 20, number).tolist(), "label": 1 + number % 4}
        write_json(folder / f"{name}.json", document)
    return folder


def test_clips_labels_views_and_subjects_come_from_the_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "ucla")
    source = open_sources([folder])
    assert source.class_names == ["pick up with one hand", "pick up with two hands", "drop trash", "walk around"]
    assert len(source.entries) == 12
    for entry, label, camera, subject in zip(
        source.entries, source.columns["label"], source.columns["camera"], source.columns["subject"], strict=True
    ):
        number = int(entry.name[9:11])
        assert np.array_equal(only(entry.read()), walk(9 + number, 20, number))
        assert (label, camera, subject) == (number % 4, 1 + number % 3, 1 + number // 6)
    assert source.splits(np.arange(12)).default == "xview"
    assert source.bones[0].tolist() == [0, 1]
    assert source.joint_names[0] == "hip centre"


def test_a_zip_of_the_folder_is_the_same_source(tmp_path: Path) -> None:
    folder = save(tmp_path / "ucla")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, f"all_sqe/{path.name}")
    one, other = open_sources([folder]), open_sources([tmp_path / "a.zip"])
    assert [entry.name for entry in one.entries] == [entry.name for entry in other.entries]
    assert np.array_equal(one.columns["label"], other.columns["label"])
    assert all(np.array_equal(only(a.read()), only(b.read())) for a, b in zip(one.entries, other.entries, strict=True))


def test_a_damaged_file_is_rejected_alone_with_its_line(tmp_path: Path) -> None:
    folder = save(tmp_path / "ucla")
    (folder / "a04_s09_e20_v01.json").write_text('{"file_name": "x",\n"skeletons": [[[1, 2')
    write_json(folder / "a04_s09_e21_v01.json", {"skeletons": walk(5, 19).tolist(), "label": 4})
    source = open_sources([folder])
    errors = {}
    for entry in source.entries:
        try:
            entry.read()
        except SkeletonError as error:
            errors[entry.name] = (error.line, error.reason)
    assert errors == {"a04_s09_e20_v01": (2, "bad-json"), "a04_s09_e21_v01": (0, "bad-form")}
    assert source.columns["label"][[entry.name == "a04_s09_e20_v01" for entry in source.entries]].tolist() == [3]


def test_other_shapes_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "one" / "a01_s01_e01_v01.json", {"skeletons": [[1, 2, 3]], "label": 1})
    with pytest.raises(SourceError, match=r"have shape \(1, 3\); expected \(T, V, 3\)"):
        open_sources([tmp_path / "one"])

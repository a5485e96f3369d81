"""Where labels come from in formats that carry none."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.sources import Reading, SourceError, open_sources
from preprocessing.sources.labels import name_numbers, number_texts


def test_names_of_published_patterns_give_their_numbers() -> None:
    assert name_numbers("a01_s02_e03_v04") == {"action": 1, "subject": 2, "replication": 3, "camera": 4}
    assert name_numbers("a1_s8_t4_skeleton") == {"action": 1, "subject": 8, "replication": 4}
    assert name_numbers("S001C002P003R002A013")["action"] == 13
    assert name_numbers("wave_1") == {}


def test_texts_are_numbered_in_order_and_numbers_by_value() -> None:
    assert number_texts(["10", "9", "10"])[1] == ["9", "10"]
    assert number_texts(["b", "a"])[0].tolist() == [1, 0]
    assert number_texts(["10.0", "9.0", "10.0"])[1] == ["9", "10"]
    assert number_texts(["1.5", "1.0"])[1] == ["1.0", "1.5"]


@pytest.fixture
def own(recordings: Path, tmp_path: Path) -> Path:
    """A folder of `.skeleton` files with other names than NTU's."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number, path in enumerate(sorted(recordings.iterdir())[:6]):
        shutil.copy(path, folder / f"{'wave' if number % 2 else 'jump'}_{number}.skeleton")
    return folder


def test_own_recordings_take_the_class_from_their_name(own: Path, tmp_path: Path) -> None:
    assert build([str(own), "--out", str(tmp_path / "a.h5")]) == 0
    file = open_file(tmp_path / "a.h5")
    assert file.class_names == ["jump", "wave"]
    assert file.clips["label"].tolist() == [0, 0, 0, 1, 1, 1]
    assert file.joint_names[20] == "spine shoulder"


def test_own_recordings_take_labels_subjects_and_splits_from_a_csv(own: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in own.iterdir())
    rows = [f"{name},{'xy'[n % 2]},p{n // 2},{['train', 'test'][n % 2]}" for n, name in enumerate(names)]
    (own / "labels.csv").write_text("\ufefffile;class;subject;split\n".replace(";", ",") + "\n".join(rows))
    source = open_sources([own])
    assert source.class_names == ["x", "y"]
    assert source.columns["subject"].tolist() == [1, 1, 2, 2, 3, 3]
    assert source.splits(np.arange(6)).parts["split"]["test"].tolist() == [1, 3, 5]
    assert source.kinect
    shutil.move(own / "labels.csv", tmp_path / "mine.csv")
    assert open_sources([own], Reading(labels=tmp_path / "mine.csv")).class_names == ["x", "y"]


def test_a_folder_per_class_gives_the_class(own: Path) -> None:
    for path in sorted(own.iterdir()):
        front = path.name.partition("_")[0]
        (own / f"{front}s").mkdir(exist_ok=True)
        path.rename(own / f"{front}s" / f"{path.name.partition('_')[2]}")
    source = open_sources([own])
    assert source.class_names == ["jumps", "waves"]


def test_labels_that_name_no_clip_and_missing_labels_are_named(own: Path) -> None:
    (own / "labels.csv").write_text("clip,label\nq,x\n")
    with pytest.raises(SourceError, match="names none of the 6 clips, such as jump_0"):
        open_sources([own])
    (own / "labels.csv").unlink()
    for number, path in enumerate(sorted(own.iterdir())):
        path.rename(own / f"{number}.skeleton")
    with pytest.raises(SourceError, match="clip 0 has no label. Add labels.csv"):
        open_sources([own])
    assert open_sources([own], Reading(labelled=False)).class_names == ["unknown"]


def test_a_labels_csv_that_is_no_text_is_named(own: Path) -> None:
    (own / "labels.csv").write_bytes(b"clip,label\n\xff\xfe,x\n")
    with pytest.raises(SourceError, match="is not UTF-8 text"):
        open_sources([own])


def test_a_clip_with_two_labels_is_named_and_rows_that_fit_no_clip_are_noted(own: Path) -> None:
    names = [path.stem for path in sorted(own.iterdir())]
    text = "clip,label,split\n" + "".join(f"{name},a,train\n" for name in names[:5]) + f"{names[5]},A,\nghost,a,test\n"
    (own / "labels.csv").write_text(text)
    notes = open_sources([own]).notes
    assert notes[0].endswith("labels.csv names 1 clips that are not there, such as ghost")
    assert notes[1].endswith("column split is not used, because it is empty for 1 of 6 clips")
    assert notes[2] == "classes 'A', 'a' differ only in case or spaces: are they one?"
    (own / "labels.csv").write_text(text + f"{names[0]},b,train\n")
    with pytest.raises(SourceError, match="names clip jump_0 twice: label 'a' and 'b'"):
        open_sources([own])


def test_files_of_one_name_in_several_folders_take_their_path_as_name(own: Path) -> None:
    for number, path in enumerate(sorted(own.iterdir())):
        folder = own / ("wave", "jump")[number % 2] / f"s{1 + number // 4}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{number // 2 % 2}.skeleton")
    source = open_sources([own])
    assert [entry.name for entry in source.entries][:3] == ["jump/s1/0", "jump/s1/1", "jump/s2/0"]
    assert source.class_names == ["jump", "wave"]
    assert source.columns["subject"].tolist() == [1, 1, 2, 1, 1, 2]


def test_own_splits_name_files_with_or_without_suffix_and_note_clips_in_no_part(own: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in own.iterdir())
    text = "clip,part\n" + "".join(
        f"{name},{part}\n" for name, part in zip(names, ["training", "test"] * 2, strict=False)
    )
    (tmp_path / "folds.csv").write_text(text)
    source = open_sources([own], Reading(splits=tmp_path / "folds.csv"))
    assert source.protocols["own"].tolist() == ["train", "test", "train", "test", "", ""]
    assert source.notes == [f"{tmp_path}/folds.csv: 2 of 6 clips are in no part of own"]


def test_files_of_another_format_in_the_folder_are_noted(own: Path) -> None:
    (own / "truth.json").write_text("{}")
    assert open_sources([own]).notes == [], "of preprocessing.synthetic"
    (own / "a.json").write_text("{}")
    assert open_sources([own]).notes == [
        "the source also has 1 .json files, which format skeletons does not read: build them separately"
    ]

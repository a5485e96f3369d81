"""Class subsets and own protocols apply to any source; labels CSVs to those without labels."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.sources import Reading, SourceError, open_sources
from preprocessing.sources.selection import chosen_classes
from tests.preprocessing.sources.test_arrays import save

NAMES = [f"class {k}" for k in range(30)]


def test_classes_are_numbers_from_one_and_ranges() -> None:
    assert list(chosen_classes("1-3,23", NAMES)) == [0, 1, 2, 22]
    assert chosen_classes("30", NAMES) == {29: "class 29"}


def test_a_file_of_classes_names_and_merges_them(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("2, sitting\nclass 4\tsitting\n\n7\n")
    assert chosen_classes(str(tmp_path / "c.txt"), NAMES) == {1: "sitting", 4: "sitting", 6: "class 6"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "class '0' is unknown; there are 1 to 30"),
        ("3-31", "class '31' is unknown"),
        ("2,1-3", "class '2' is named twice"),
        ("one", "write 1-10,23"),
        ("4-", "write 1-10,23"),
    ],
)
def test_classes_that_do_not_exist_are_named(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        chosen_classes(text, NAMES)


def test_a_subset_of_ntu_keeps_its_official_split_and_renumbers_its_classes(recordings: Path, tmp_path: Path) -> None:
    assert build([str(recordings), "--out", str(tmp_path / "a.h5"), "--classes", "50"]) == 0
    file = open_file(tmp_path / "a.h5")
    assert file.class_names == ["punch/slap"] or len(file.class_names) == 1
    assert set(file.clips["label"].tolist()) == {0}
    assert len(file.clips["name"]) == 12
    assert file.default_protocol == "xsub"
    assert build([str(recordings), "--out", str(tmp_path / "b.h5"), "--classes", "60"]) == 2


def test_merged_classes_share_a_label(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("3,b\n1,a\n2,b\n")
    path = save(tmp_path / "a.npz", label=np.array([0, 1, 2, 1]))
    source = open_sources([path], Reading(classes=str(tmp_path / "c.txt")))
    assert source.class_names == ["b", "a"]
    assert source.columns["label"].tolist() == [1, 0, 0, 0]


def test_own_protocols_replace_those_of_the_source(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", name=np.array(list("wxyz")))
    (tmp_path / "s.csv").write_text(
        "clip,part,protocol\nw,train,one\nx,val,one\ny,test,one\nz,test,two\nw,train,two\nx,train,two\n"
    )
    splits = open_sources([path], Reading(splits=tmp_path / "s.csv")).splits(np.arange(4))
    assert {protocol: {k: v.tolist() for k, v in parts.items()} for protocol, parts in splits.parts.items()} == {
        "one": {"train": [0], "val": [1], "test": [2]},
        "two": {"train": [0, 1], "val": [], "test": [3]},
    }
    assert splits.default == "one"
    assert splits.rules["one"] == "val as given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,part\nw,exam\n", "split 'exam' is unknown; use train, val, test"),
        ("clip,part\nq,train\n", "names none of the 4 clips, such as w"),
        ("clip,part\nw,train\nw,test\n", "clip w is in train and in test"),
        ("w,train\n", "has no column clip: its header is 'w, train'. Add a header line such as clip,part"),
        ("clip,part\nw\n", "line 2 has 1 fields; its header has 2"),
        ("clip,part\nw,\n", "line 2 has no part"),
    ],
)
def test_a_splits_csv_that_does_not_fit_is_rejected_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = save(tmp_path / "a.npz", name=np.array(list("wxyz")))
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_sources([path], Reading(splits=tmp_path / "s.csv"))

"""Folders and zips of `.skeleton` files are one source; clips are identified by their names."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from preprocessing.sources import COLUMNS, SourceError, open_sources

NAME = "S001C001P001R001A001.skeleton"


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_holds_what_its_folder_holds(recordings: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {f"nturgb+d_skeletons/{p.name}": p.read_bytes() for p in recordings.iterdir()})
    folder, archive = open_sources([recordings]), open_sources([packed])
    assert [entry.name for entry in archive.entries] == [entry.name for entry in folder.entries]
    assert len(archive.entries) == 24
    assert all(np.array_equal(folder.columns[key], archive.columns[key]) for key in COLUMNS)
    for one, other in zip(folder.entries, archive.entries, strict=True):
        assert np.array_equal(one.read().tracks[0].joints_FV3, other.read().tracks[0].joints_FV3)


def test_a_clip_that_occurs_twice_is_named_with_both_places(recordings: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {f"in/{NAME}": b"0\n"})
    with pytest.raises(SourceError, match=rf"(?s)occurs twice: .*recordings/{NAME} and .*a\.zip:in/{NAME}"):
        open_sources([recordings, packed])


def test_a_file_by_another_name_is_rejected_alone(recordings: Path) -> None:
    (recordings / "walk.skeleton").write_bytes(b"0\n")
    source = open_sources([recordings])
    assert [error.reason for error in source.unusable] == ["bad-name"]
    assert len(source.entries) == 24


def test_what_is_no_source_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        open_sources([tmp_path / "none"])
    with pytest.raises(SourceError, match="no .skeleton files"):
        open_sources([tmp_path])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"not a recording of a known format. Known formats: skeletons, "):
        open_sources([tmp_path / "a.txt"])


def test_a_clip_twice_in_one_zip_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {f"one/{NAME}": b"0\n", f"two/{NAME}": b"0\n"})
    with pytest.raises(SourceError, match=rf"a\.zip:one/{NAME} and .*a\.zip:two/{NAME}; remove one"):
        open_sources([packed])


@pytest.mark.parametrize(
    "name",
    ["S001C001P001R001A121.skeleton", "S001C001P001R001A001 (1).skeleton", "a\nb.skeleton", "x" * 250 + ".skeleton"],
)
def test_odd_names_inside_a_zip_are_rejected_alone(tmp_path: Path, name: str) -> None:
    source = open_sources([pack(tmp_path / "a.zip", {f"../../{name}": b"0\n", f"/abs/{NAME}": b"0\n"})])
    assert [error.reason for error in source.unusable] == ["bad-name"]
    assert [entry.name for entry in source.entries] == [NAME[:20]]


def test_setups_in_nested_and_linked_folders_are_one_source(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "all" / "later").mkdir(parents=True)
    (tmp_path / "all" / "first").symlink_to(recordings)
    (tmp_path / "all" / "later" / "S018C001P041R001A061.skeleton").write_bytes(b"0\n")
    source = open_sources([tmp_path / "all"])
    assert len(source.entries) == 25
    assert source.dataset == "ntu120"

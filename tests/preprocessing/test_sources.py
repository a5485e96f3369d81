"""Folders, zips and array files give the same kind of clips; what cannot be used is said in one line."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing import sources
from preprocessing.entries import COLUMNS, SourceError
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import open_sources

Text = Callable[..., bytes]
Person = Callable[..., np.ndarray]
NAME = "S001C001P001R001A001.skeleton"


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def save(path: Path, **arrays: object) -> Path:
    """An array file of 4 clips of 3 frames, 2 bodies and 5 joints, with `arrays` put in its place."""
    x = np.ones((12, 2, 5, 3), np.float32)
    x[:, 1] = 0
    given = {"X": x, "ptr": np.arange(0, 13, 3), "label": np.array([0, 1, 0, 1]), "subject": np.array([1, 1, 2, 2])}
    np.savez(path, **{key: value for key, value in (given | arrays).items() if value is not None})
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


def test_a_file_by_another_name_is_refused_alone(recordings: Path) -> None:
    (recordings / "walk.skeleton").write_bytes(b"0\n")
    source = open_sources([recordings])
    assert [error.reason for error in source.unusable] == ["bad-name"]
    assert len(source.entries) == 24


def test_a_zip_bomb_is_never_expanded(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {NAME: b" " * (4 << 20)})
    with pytest.raises(SkeletonError, match="too-compressed"):
        open_sources([packed]).entries[0].read()


def test_a_huge_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    packed = pack(tmp_path / "a.zip", {NAME: b"0123456789x"})
    with pytest.raises(SkeletonError, match="too-large"):
        open_sources([packed]).entries[0].read()


def test_a_damaged_member_is_refused_alone(tmp_path: Path, ntu_text: Text, person: Person) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]]))
    content = bytearray(packed.read_bytes())
    content[200] ^= 1
    packed.write_bytes(content)
    with pytest.raises(SkeletonError, match="unreadable"):
        open_sources([packed]).entries[0].read()


def test_a_body_of_an_array_file_is_absent_where_all_its_joints_are_zero(tmp_path: Path) -> None:
    x = np.ones((12, 2, 5, 3), np.float32)
    x[:, 1] = 0
    x[1, 1, 2, 0] = 0.5
    clip = open_sources([save(tmp_path / "a.npz", X=x)]).entries[0].read()
    assert [track.frame_F.tolist() for track in clip.tracks] == [[0, 1, 2], [1]]


def test_views_become_cameras_and_the_root_of_the_bones_is_the_centre(tmp_path: Path) -> None:
    bones = np.array([[2, 0], [0, 1], [2, 3], [3, 4]])
    source = open_sources([save(tmp_path / "a.npz", view=np.array([1, 2, 1, 2]), bones=bones)])
    assert source.marks.centre == 2
    assert source.columns["camera"].tolist() == [1, 2, 1, 2]
    assert not source.kinect


def test_a_nan_in_an_array_file_is_refused_alone(tmp_path: Path) -> None:
    x = np.ones((12, 2, 5, 3), np.float32)
    x[0, 0, 0, 0] = np.nan
    first, second, *_ = open_sources([save(tmp_path / "a.npz", X=x)]).entries
    with pytest.raises(SkeletonError, match="non-finite"):
        first.read()
    assert second.read().frames == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": None}, "has no label"),
        ({"X": np.ones((12, 5, 3))}, "expected floats"),
        ({"X": np.ones((12, 3, 5, 3))}, "1 or 2"),
        ({"ptr": np.array([0, 5, 4, 10, 12])}, "ptr must ascend"),
        ({"subject": np.array([1])}, "one value"),
        ({"label": np.array([0, -1, 0, 1])}, "integers from 0"),
        ({"class_names": np.array(["a"])}, "no class name"),
        ({"split": np.array(["train", "train", "test", "exam"])}, "'exam' is unknown"),
        ({"name": np.array(["a", "b", "b", "c"])}, "'b' occurs twice"),
        ({"name": np.array([{}, {}, {}, {}])}, "no readable array file"),
    ],
)
def test_an_array_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_sources([save(tmp_path / "a.npz", **arrays)])


def test_what_is_no_source_says_what_would_be(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        open_sources([tmp_path / "none"])
    with pytest.raises(SourceError, match="no .skeleton files"):
        open_sources([tmp_path])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SourceError, match=r"a folder, a \.zip or an array \.npz"):
        open_sources([tmp_path / "a.txt"])

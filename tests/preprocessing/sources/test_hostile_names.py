"""Names that lead elsewhere, and clips that occur twice (F6, F8): an error or a rejection, and nothing outside OUT."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing import build, exits
from preprocessing.sources import SourceError, open_sources
from tests.preprocessing.sources.test_skeleton_files import NAME, pack

HOSTILE = (
    f"../../{NAME}", f"/etc/{NAME}", f"..\\..\\{NAME}", f"C:\\{NAME}", f"a/../../{NAME}", "a\nb.skeleton",
    "\x1b[2J.skeleton", "x" * 300 + ".skeleton", "S001C001P001R001A000.skeleton", "S001C001P001R001A121.skeleton",
    "S000C001P001R001A001.skeleton", "~/.skeleton", "-rf.skeleton",
)  # fmt: skip


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_in_a_zip_touches_nothing(recordings: Path, tmp_path: Path, name: str) -> None:
    """The clip is rejected, ignored or read under its own last part, whatever stands beside it."""
    content = (recordings / NAME).read_bytes()
    packed = pack(tmp_path / "a.zip", {"S001C001P001R001A002.skeleton": content, name: content})
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist()[1] == name
    before = tree(tmp_path)
    source = open_sources([packed])
    assert {entry.name for entry in source.entries} <= {"S001C001P001R001A002", NAME.removesuffix(".skeleton")}
    for entry in source.entries:
        assert entry.read().tracks
    for error in source.unusable:
        assert error.reason == "bad-name"
        assert exits.describe(error).replace("\n", "").isprintable()
    assert tree(tmp_path) == before


def test_plain_extraction_of_such_a_zip_would_write_elsewhere(recordings: Path, tmp_path: Path) -> None:
    """Control: the name leads out of the folder."""
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    with zipfile.ZipFile(pack(tmp_path / "a.zip", {HOSTILE[0]: b"0\n"})) as archive:
        (inside / archive.namelist()[0]).write_bytes(archive.read(archive.namelist()[0]))
    assert (tmp_path / NAME).is_file()


def nested(clips: Path) -> list[Path]:
    (clips / "again").mkdir()
    shutil.copy(clips / NAME, clips / "again" / NAME)
    return [clips]


def two_folders(clips: Path) -> list[Path]:
    other = clips.parent / "other"
    other.mkdir()
    shutil.copy(clips / NAME, other / NAME)
    return [clips, other]


def folder_and_zip(clips: Path) -> list[Path]:
    return [clips, pack(clips.parent / "a.zip", {f"in/{NAME}": (clips / NAME).read_bytes()})]


def two_zips(clips: Path) -> list[Path]:
    return [pack(clips.parent / f"{name}.zip", {NAME: (clips / NAME).read_bytes()}) for name in "ab"]


def one_zip(clips: Path) -> list[Path]:
    return [pack(clips.parent / "a.zip", {f"{name}/{NAME}": (clips / NAME).read_bytes() for name in "ab"})]


DUPLICATES: list[Callable[[Path], list[Path]]] = [nested, two_folders, folder_and_zip, two_zips, one_zip]


@pytest.mark.parametrize("made", DUPLICATES)
def test_a_clip_that_occurs_twice_ends_the_build_before_any_work(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[Path], list[Path]]
) -> None:
    """Exit 2, both places, nothing written."""
    sources = [str(path) for path in made(recordings)]
    before = tree(tmp_path)
    assert build.main([*sources, "--out", str(tmp_path / "a.h5")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "occurs twice" in line
    assert line.count(NAME) == 2
    assert tree(tmp_path) == before


def test_links_and_copies_of_one_name_differ(recordings: Path) -> None:
    """Control: a link to the same file is the same clip, so the error is about copies."""
    (recordings / "again").mkdir()
    os.symlink(recordings / NAME, recordings / "again" / NAME)
    assert len(open_sources([recordings]).entries) == 24
    (recordings / "again" / NAME).unlink()
    shutil.copy(recordings / NAME, recordings / "again" / NAME)
    with pytest.raises(SourceError, match="occurs twice"):
        open_sources([recordings])

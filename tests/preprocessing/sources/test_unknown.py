"""Paths that are no recordings: each kind gets its own line with the next step."""

import os
import zipfile
from pathlib import Path

import pytest

from preprocessing.build import main as build
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SOURCES, Reading, SourceError, open_sources


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("S001C001P001R001A001.skeleton", "0\n" * 5000)


CONTENTS = {
    "a.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file. If python -m preprocessing.build made it, pass it"),
    "a.tar.gz": (b"\x1f\x8b\x08", r"is a gzip archive. Unpack it \(tar -xzf or gunzip\)"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    "a.rar": (b"Rar!\x1a", "is a RAR archive"),
    "a.mp4": (b"\0\0\0\x20ftypisom", "is a video, not a skeleton. Estimate poses first, with MediaPipe or OpenPose"),
    "a.avi": (b"RIFF\0\0\0\0AVI ", "is a video, not a skeleton. Estimate"),
    "clip": (b"\x1a\x45\xdf\xa3", "is a video. Estimate poses first"),
    "a.png": (b"\x89PNG\r\n", "is a picture. Estimate poses first"),
    "a.pdf": (b"%PDF-1.4", "is a PDF document"),
    "b.zip": (b"<!DOCTYPE html>", "is an HTML page, not data: the download asked for a login"),
    "c.npz": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    "c.pkl": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    "a.txt": (b"hello", "is not a recording of a known format. Known formats: skeletons, "),
    "a.json": (b'{"hello": 1}', "is JSON of an unknown kind. Known formats:"),
    "empty.npz": (b"", "is empty. Copy or download it again"),
    "empty.zip": (b"", "is empty"),
    "junk.zip": (b"junk", "is a damaged or truncated zip"),
    "junk.npz": (b"junk", "is not a readable array file"),
    "junk.pkl": (b"junk", "is not a pickle of plain data"),
    "junk.npy": (b"\x93NUMPY\x01", "is not a readable .npy file"),
    "junk.bvh": (b"HIERARCHY\n", "truncated: the file ends before MOTION"),
    "junk.csv": (b"a,b\n1,2\n", "is not a table of joints. The first line of .*junk.csv is .a,b.: must be a header"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_says_what_it_is(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, message = CONTENTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([tmp_path / name])
    assert "\n" not in str(caught.value)
    assert build([str(tmp_path / name), "--out", str(tmp_path / "out.h5")]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_truncated_zip_is_no_array_file(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"a.zip is a damaged or truncated zip .*Download or copy it again"):
        open_sources([tmp_path / "a.zip"])


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for name, message in {
        "a.zip": r"f holds zips. Name the zips themselves: .*f/\*\.zip",
        "a.mp4": "holds videos or pictures, not skeletons. Estimate poses first",
        "a.npz": "f holds .npz files. Name one of them: .*f/a.npz",
        "a.pkl": "f holds .pkl files",
        "a.txt": r"no .skeleton files or other recordings in .*f \(1 .txt\)",
    }.items():
        (folder / name).write_bytes(b"x")
        with pytest.raises(SourceError, match=message):
            open_sources([folder])
        (folder / name).unlink()


def test_a_single_recording_is_a_source(recordings: Path) -> None:
    assert len(open_sources([next(recordings.iterdir())]).entries) == 1


def test_links_that_lead_to_one_file_or_in_a_circle_count_once(recordings: Path, tmp_path: Path) -> None:
    (recordings / "again").symlink_to(recordings)
    (recordings / "sub").mkdir()
    first = sorted(recordings.glob("*.skeleton"))[0]
    (recordings / "sub" / first.name).symlink_to(first)
    assert len(open_sources([recordings]).entries) == 24


def test_a_fifo_does_not_hang_and_is_named(recordings: Path, tmp_path: Path) -> None:
    os.mkfifo(recordings / "S001C001P009R001A001.skeleton")
    entry = next(e for e in open_sources([recordings]).entries if "P009" in e.name)
    with pytest.raises(ValueError, match="is not a regular file"):
        entry.read()
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(SourceError, match="is not a regular file"):
        open_sources([tmp_path / "a.zip"])


def test_a_folder_that_cannot_be_listed_is_named(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (recordings / "secret").mkdir()
    listed = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(SourceError, match=r"folder .*secret cannot be read \(Permission denied\). Grant permission"):
        open_sources([recordings])


def test_a_format_can_be_named_and_an_unknown_one_gets_the_names(recordings: Path, tmp_path: Path) -> None:
    assert open_sources([recordings], Reading(format="skeletons")).benchmark
    with pytest.raises(SourceError, match=r"--format 'skeleton' is unknown; did you mean skeletons\? choose one of"):
        open_sources([recordings], Reading(format="skeleton"))
    with pytest.raises(SourceError, match="no BVH files"):
        open_sources([recordings], Reading(format="bvh"))


def test_sources_of_two_formats_are_not_one(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "a_1.bvh").write_text("HIERARCHY\n")
    with pytest.raises(
        SourceError, match=r"a_1.bvh has format bvh and .*recordings has skeletons; build them separately"
    ):
        open_sources([recordings, tmp_path / "a_1.bvh"])


def test_help_lists_every_format_with_its_first_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build(["--help"])
    text = " ".join(capfd.readouterr().out.split())
    for name, reader in SOURCES.items():
        assert len(reader.about) > 20
        assert name in text
        assert reader.about.split(":")[0][:30] in text


def test_archives_inside_a_folder_or_a_zip_are_to_be_unpacked(tmp_path: Path) -> None:
    for name in ("a_1.skeleton.gz", "a_2.skeleton.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(
        SourceError, match=r"holds 2 compressed files, such as a_1.skeleton.gz. Unpack them .*gunzip -r"
    ):
        open_sources([tmp_path])
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("inner.zip", b"PK")
    with pytest.raises(SourceError, match=r"outer.zip holds zips. Unpack it and name the zips in it"):
        open_sources([tmp_path / "outer.zip"])


def test_a_pointer_in_the_place_of_a_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "wave_1.skeleton").write_text("version https://git-lfs.github.com/spec/v1\n")
    (entry,) = open_sources([tmp_path]).entries
    with pytest.raises(SkeletonError, match="wave_1: pointer: a Git LFS pointer, not the data"):
        entry.read()

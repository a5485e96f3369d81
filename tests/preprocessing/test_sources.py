"""Folders, zips and array files give the same kind of clips; what cannot be used is said in one line."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import open_sources, skeleton_files, zips
from preprocessing.sources.entries import COLUMNS, SourceError

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
    monkeypatch.setattr(zips, "MAX_BYTES", 10)
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
    assert source.landmarks.centre == 2
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
        ({"name": np.array([{}, {}, {}, {}])}, "is not a readable array file"),
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


def first(packed: Path) -> bytes:
    """The bytes of a zip's only recording, as the parser gets them."""
    (one,) = skeleton_files._zip(packed)
    return one.place.read()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_in_place_to_the_last_byte(tmp_path: Path, method: int) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("readme.txt", "x")
        archive.writestr(f"deep/er/{NAME}", content)
        archive.writestr(f"__MACOSX/._{NAME}", "x")
    assert first(tmp_path / "a.zip") == content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_anywhere_in_a_member_is_found(
    tmp_path: Path, ntu_text: Text, person: Person, method: int
) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]] * 3))
    content = packed.read_bytes()
    start = 30 + len(NAME)
    end = content.index(b"PK\x01\x02")
    for at in range(start, end, max((end - start) // 150, 1)):
        packed.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(SkeletonError, match="unreadable"):
            first(packed)


def test_without_the_checksum_a_flipped_digit_would_be_taken(
    tmp_path: Path, ntu_text: Text, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "a.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(NAME, ntu_text([[(5, person())]]))
    packed.write_bytes(packed.read_bytes().replace(b" 3.0 ", b" 3.5 ", 1))
    with pytest.raises(SkeletonError, match="CRC-32"):
        first(packed)
    (one,) = skeleton_files._zip(packed)
    blind = one.place._replace(crc=zlib.crc32(ntu_text([[(5, person())]]).replace(b" 3.0 ", b" 3.5 ", 1)))
    assert b" 3.5 " in blind.read()


def test_a_directory_that_lies_about_a_size_expands_no_more_than_it_says(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {NAME: np.random.default_rng(0).bytes(1000) * 2000})
    (one,) = skeleton_files._zip(packed)
    liar = one.place._replace(size=5000)
    with pytest.raises(SkeletonError, match="size and CRC-32"):
        liar.read()
    assert len(liar._expand()) == 5001


def test_an_encrypted_or_oddly_compressed_member_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(NAME, b"0\n" * 100)
    with pytest.raises(SkeletonError, match="method 14; use deflate"):
        first(tmp_path / "a.zip")
    (one,) = skeleton_files._zip(tmp_path / "a.zip")
    with pytest.raises(SkeletonError, match="encrypted"):
        one.place._replace(encrypted=True).read()


def test_a_clip_twice_in_one_zip_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {f"one/{NAME}": b"0\n", f"two/{NAME}": b"0\n"})
    with pytest.raises(SourceError, match=rf"a\.zip:one/{NAME} and .*a\.zip:two/{NAME}; remove one"):
        open_sources([packed])


def test_a_zip_that_claims_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_TOTAL", 1000)
    packed = pack(tmp_path / "a.zip", {NAME: b"0" * 1001})
    with pytest.raises(SourceError, match="claims to hold"):
        open_sources([packed])


@pytest.mark.parametrize(
    "name",
    ["S001C001P001R001A121.skeleton", "S001C001P001R001A001 (1).skeleton", "a\nb.skeleton", "x" * 250 + ".skeleton"],
)
def test_odd_names_inside_a_zip_are_refused_alone(tmp_path: Path, name: str) -> None:
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


@pytest.mark.parametrize("bodies", [1, 2])
def test_arrays_as_ctr_gcn_saves_them_import(tmp_path: Path, bodies: int) -> None:
    rng = np.random.default_rng(0)
    x_NT = rng.normal(size=(5, 12, 75 * bodies)).astype(np.float32)
    x_NT[1, 7:] = 0
    x_NT = np.concatenate([x_NT, np.zeros_like(x_NT)], axis=2) if bodies == 1 else x_NT
    y_N = np.eye(4)[[0, 1, 2, 3, 1]]
    np.savez(tmp_path / "CS.npz", x_train=x_NT[:3], y_train=y_N[:3], x_test=x_NT[3:], y_test=y_N[3:])
    source = open_sources([tmp_path / "CS.npz"])
    clips = [entry.read() for entry in source.entries]
    assert [clip.frames for clip in clips] == [12, 7, 12, 12, 12]
    assert [len(clip.tracks) for clip in clips] == [bodies] * 5
    assert source.columns["label"].tolist() == [0, 1, 2, 3, 1]
    assert source.given["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert source.joint_names[20] == "spine shoulder"
    assert np.array_equal(clips[3].tracks[0].joints_FV3.reshape(12, 75), x_NT[3, :, :75])


def test_arrays_as_pyskl_lays_them_out_import(tmp_path: Path) -> None:
    keypoint = np.random.default_rng(0).normal(size=(3, 2, 9, 17, 3)).astype(np.float16)
    keypoint[0, 1] = 0
    np.savez(tmp_path / "a.npz", keypoint=keypoint, total_frames=np.array([9, 5, 9]), label=np.array([0, 1, 2]))
    source = open_sources([tmp_path / "a.npz"])
    clips = [entry.read() for entry in source.entries]
    assert [(clip.frames, len(clip.tracks)) for clip in clips] == [(9, 1), (5, 2), (9, 2)]
    assert np.array_equal(clips[1].tracks[1].joints_FV3, keypoint[1, 1, :5].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((2, 9, 149)), "y_train": np.eye(2)}, "150 values per frame"),
        ({"x_train": np.zeros((2, 9, 150)), "y_train": np.eye(3)}, "one row per clip"),
        ({"x_train": np.zeros((2, 9, 150))}, "has no y_train"),
        ({"keypoint": np.zeros((2, 2, 9, 17, 2)), "label": np.zeros(2, int)}, "3 coordinates"),
        ({"keypoint": np.zeros((2, 2, 9, 17, 3)), "label": np.zeros(3, int)}, "one value for 2 clips"),
        ({"keypoint": np.zeros((1, 2, 9, 17, 3)), "label": np.zeros(1, int), "total_frames": np.array([10])}, "to 9"),
    ],
)  # fmt: skip
def test_peers_arrays_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([tmp_path / "a.npz"])
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    np.savez(tmp_path / "a.npz", X=np.array([Trap()], object), ptr=np.array([0, 1]), label=np.array([0]))
    with pytest.raises(SourceError, match="is not a readable array file"):
        open_sources([tmp_path / "a.npz"])
    assert not (tmp_path / "sprung").exists()
    with np.load(tmp_path / "a.npz", allow_pickle=True) as trusting:
        trusting["X"]
    assert (tmp_path / "sprung").exists(), "the trap works where pickles are loaded"

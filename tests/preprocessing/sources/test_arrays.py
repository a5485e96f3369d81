"""Array files: what is read, and what is rejected in one line."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources


def save(path: Path, **arrays: object) -> Path:
    """An array file of 4 clips of 3 frames, 2 bodies and 5 joints, with `arrays` put in its place."""
    x = np.ones((12, 2, 5, 3), np.float32)
    x[:, 1] = 0
    given = {"X": x, "ptr": np.arange(0, 13, 3), "label": np.array([0, 1, 0, 1]), "subject": np.array([1, 1, 2, 2])}
    np.savez(path, **{key: value for key, value in (given | arrays).items() if value is not None})
    return path


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


def test_a_nan_in_an_array_file_is_rejected_alone(tmp_path: Path) -> None:
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
def test_an_array_file_that_does_not_fit_is_rejected_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_sources([save(tmp_path / "a.npz", **arrays)])


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


def test_every_column_follows_its_clip_when_names_are_not_sorted(tmp_path: Path) -> None:
    columns = {
        "name": np.array(["d", "b", "a", "c"]), "label": np.array([3, 1, 0, 2]), "subject": np.array([40, 20, 10, 30]),
        "view": np.array([4, 2, 1, 3]), "fold": np.array(["v", "t", "s", "u"]),
        "split": np.array(["test", "train", "train", "val"]),
    }  # fmt: skip
    x = np.repeat(np.array([3, 1, 0, 2], np.float32), 3)[:, None, None, None] * np.ones((12, 1, 5, 3), np.float32) + 1
    source = open_sources([save(tmp_path / "a.npz", X=x, **columns)])
    assert [entry.name for entry in source.entries] == ["a", "b", "c", "d"]
    assert [entry.origin for entry in source.entries] == [f"{tmp_path}/a.npz[{i}]" for i in (2, 1, 3, 0)]
    assert [entry.read().tracks[0].joints_FV3[0, 0, 0] for entry in source.entries] == [1, 2, 3, 4]
    assert source.columns["label"].tolist() == [0, 1, 2, 3]
    assert source.columns["subject"].tolist() == [10, 20, 30, 40]
    assert source.columns["camera"].tolist() == [1, 2, 3, 4]
    assert source.given["fold"].tolist() == [1, 2, 3, 4]
    assert source.given["split"].tolist() == ["train", "train", "val", "test"]
    assert source.splits(np.arange(4)).parts["split"]["test"].tolist() == [3]


def test_two_array_files_are_not_one_source(tmp_path: Path) -> None:
    one, other = save(tmp_path / "a.npz"), save(tmp_path / "b.npz")
    with pytest.raises(SourceError, match=r"a\.npz is an array file and must be the only source"):
        open_sources([one, other])


@pytest.mark.parametrize(
    ("pair", "fits"), [([4, 0], True), ([0, 5], False), ([-1, 0], False), ([0, 1, 2], False), ([0.0, 1.0], False)]
)
def test_reference_joints_must_be_two_joints_of_the_skeleton(tmp_path: Path, pair: list, fits: bool) -> None:
    path = save(tmp_path / "a.npz", spine=np.array(pair))
    if fits:
        assert open_sources([path]).landmarks.spine == tuple(pair)
    else:
        with pytest.raises(SourceError, match="spine must hold two joints, integers from 0 to 4"):
            open_sources([path])

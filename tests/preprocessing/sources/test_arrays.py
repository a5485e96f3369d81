"""Array files: what is read, and what is rejected in one line."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.sources import Reading, SourceError, open_sources
from preprocessing.sources.array_files import is_unpacked
from preprocessing.stages import apply


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


def test_a_nan_in_an_array_file_is_left_to_the_stages(tmp_path: Path) -> None:
    x = np.ones((12, 2, 5, 3), np.float32)
    x[0, 0, 0, 0] = np.nan
    first, second, *_ = open_sources([save(tmp_path / "a.npz", X=x)]).entries
    assert np.isnan(first.read().tracks[0].joints_FV3).sum() == 1
    assert second.read().frames == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": None}, "has no label"),
        ({"X": np.ones((12, 5, 3))}, "expected floats"),
        ({"X": np.ones((12, 1, 5, 4))}, "--channels xyzs"),
        ({"X": np.ones((12, 1, 5, 3), complex)}, "expected floats"),
        ({"score": np.ones((12, 2, 4))}, "score has shape"),
        ({"ptr": np.array([0, 5, 4, 10, 12])}, "ptr must ascend"),
        ({"subject": np.array([1])}, "one value"),
        ({"label": np.array([0, -1, 0, 1])}, "integers from 0"),
        ({"class_names": np.array(["a"])}, "no class name"),
        ({"split": np.array(["train", "train", "test", "exam"])}, "'exam' is unknown"),
        ({"name": np.array(["a", "b", "b", "c"])}, "'b' occurs twice"),
        ({"fps": np.array([25.0, 30.0, 25.0, 25.0])}, "fps is 25.0, 30.0: must be one number above 0"),
        ({"fps": np.array(0.0)}, "fps is 0.0: must be"),
        ({"joint_names": np.array(["a", "b"])}, "joint_names has 2 names; X has 5 joints"),
        ({"joint_names": np.array(list("abcda"))}, "joint_names has 'a' twice"),
        ({"X": np.ones((12, 5, 1, 3))}, "5 bodies of 1 joints"),
        ({"name": np.array([{}, {}, {}, {}])}, "name holds Python objects, which are never loaded"),
    ],
)
def test_an_array_file_that_does_not_fit_is_rejected_in_one_line(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_sources([save(tmp_path / "a.npz", **arrays)])


def test_an_array_that_is_not_needed_may_hold_objects_and_clips_to_predict_need_no_label(tmp_path: Path) -> None:
    source = open_sources(
        [save(tmp_path / "a.npz", about=np.array([{"a": 1}], object), label=None)], Reading(labelled=False)
    )
    assert (len(source.entries), source.class_names) == (4, ["unknown"])


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    np.savez(tmp_path / "a.npz", X=np.array([Trap()], object), ptr=np.array([0, 1]), label=np.array([0]))
    with pytest.raises(SourceError, match="X holds Python objects"):
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
    with pytest.raises(SourceError, match=r"a\.npz has format arrays and must be the only source"):
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


def test_two_coordinates_and_scores_are_read_and_a_score_of_zero_means_absent(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 1, 5, 2)).astype(np.float32)
    score = np.full((12, 1, 5), 0.5, np.float32)
    score[1, 0, 3] = 0
    source = open_sources([save(tmp_path / "a.npz", X=x, score=score)])
    assert (source.channels, source.unit, source.scores) == (("x", "y"), "px", True)
    (track,) = source.entries[0].read().tracks
    assert track.tracked_FV is not None
    assert track.tracked_FV[1].tolist() == [0.5, 0.5, 0.5, 0, 0.5]
    assert track.joints_FV3[1, 3].tolist() == [0, 0]
    assert np.array_equal(track.joints_FV3[2], x[2, 0])


def test_channels_tell_a_score_from_a_coordinate(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(0, 700, (12, 1, 5, 2)), rng.uniform(0.1, 1, (12, 1, 5, 1))], -1).astype(np.float32)
    path = save(tmp_path / "a.npz", X=x)
    with pytest.raises(SourceError, match="third value of X looks like a score.*--channels xys"):
        open_sources([path])
    scored, plain = (open_sources([path], Reading(channels=channels)) for channels in ("xys", "xyz"))
    (track,) = scored.entries[0].read().tracks
    assert np.array_equal(track.tracked_FV, x[:3, 0, :, 2].astype(np.float16))
    assert np.array_equal(track.joints_FV3, x[:3, 0, :, :2])
    assert plain.channels == ("x", "y", "z")
    with pytest.raises(SourceError, match="names 2 values; X has 3"):
        open_sources([path], Reading(channels="xy"))
    with pytest.raises(SourceError, match="'yx' is unknown; choose one of xyz, xy, xys, xyzs"):
        open_sources([path], Reading(channels="yx"))


def test_text_labels_become_class_names_in_order(tmp_path: Path) -> None:
    source = open_sources([save(tmp_path / "a.npz", label=np.array(["run", "jump", "run", "sit"]))])
    assert source.class_names == ["jump", "run", "sit"]
    assert source.columns["label"].tolist() == [1, 0, 1, 2]


def build_clips(path: Path, **reading: str) -> tuple[list, list]:
    """The first clip of a source, cleaned as a build does: bodies (M, T, V, 3) and decisions."""
    source = open_sources([path], Reading(**reading))
    clip = apply("c", source.entries[0].read(), source.stages)
    return clip.joints_MTV3, [decision[1:] for decision in clip.decisions]


def test_of_three_bodies_the_two_that_move_most_or_score_best_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3, 5, 3)).astype(np.float32) * np.array([2.0, 0.1, 1.0], np.float32)[:, None, None]
    joints, decisions = build_clips(save(tmp_path / "a.npz", X=x))
    assert np.array_equal(joints, x[:3, [0, 2]].swapaxes(0, 1))
    ((body, rule, value, threshold),) = decisions
    assert (body, rule) == (1, "people-motion")
    assert 0 < value < threshold
    score = np.broadcast_to(np.array([0.25, 1.0, 0.5])[:, None], (12, 3, 5))
    path = save(tmp_path / "b.npz", X=x, score=score)
    joints, decisions = build_clips(path)
    assert np.array_equal(joints, x[:3, [1, 2]].swapaxes(0, 1))
    assert decisions == [(0, "people-score", 0.25, 0.5)]
    assert build_clips(path, bodies="motion")[1][0][:2] == (1, "people-motion")
    with pytest.raises(SourceError, match="--bodies score needs scores"):
        open_sources([tmp_path / "a.npz"], Reading(bodies="score"))


def test_a_second_body_that_copies_the_first_is_dropped_and_one_that_differs_stays(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 1, 5, 3)).astype(np.float32).repeat(2, axis=1)
    x[9:, 1] += 1
    source = open_sources([save(tmp_path / "a.npz", X=x)])
    clips = [apply("c", entry.read(), source.stages) for entry in source.entries]
    assert [len(clip.present_MT) for clip in clips] == [1, 1, 1, 2]
    assert [decision.rule for clip in clips for decision in clip.decisions] == ["copied"] * 3
    assert open_sources([save(tmp_path / "b.npz")]).stages == (), "no stage where nothing is copied"


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_large_arrays_are_read_row_by_row_and_equal_the_arrays(tmp_path: Path, save_as: Callable) -> None:
    x = np.random.default_rng(0).normal(size=(6000, 1, 20, 3)).astype(np.float32)
    ptr = np.arange(0, 6001, 60)
    for name, array in (("c", x), ("f", np.asfortranarray(x))):
        save_as(tmp_path / f"{name}.npz", X=array, ptr=ptr, label=np.arange(100) % 3)
        source = open_sources([tmp_path / f"{name}.npz"])
        assert len(pickle.dumps(source.entries[7])) < 1000, "an entry holds a place, not the values"
        assert np.array_equal(source.entries[7].read().tracks[0].joints_FV3, x[420:480, 0])


def test_a_flipped_byte_in_a_large_array_is_found(tmp_path: Path) -> None:
    x = np.ones((6000, 1, 20, 3), np.float32)
    np.savez(tmp_path / "a.npz", X=x, ptr=np.arange(0, 6001, 60), label=np.zeros(100, int))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[700_000] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(SourceError, match="X.npy does not match its CRC-32"):
        open_sources([tmp_path / "a.npz"])


MEMORY = """
import resource, sys
from pathlib import Path
from preprocessing.sources import open_sources
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_sources([Path(sys.argv[1])])
total = sum(float(entry.read().tracks[0].joints_FV3.sum()) for entry in source.entries)
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_a_file_larger_than_the_memory_is_read_in_a_fraction_of_it(tmp_path: Path, save_as: Callable) -> None:
    x = np.ones((200_000, 1, 25, 3), np.float32)
    save_as(tmp_path / "a.npz", X=x, ptr=np.arange(0, 200_001, 100), label=np.zeros(2000, int))
    answer = subprocess.run([sys.executable, "-c", MEMORY, tmp_path / "a.npz"], capture_output=True, text=True)
    total, megabytes = map(float, answer.stdout.split())
    assert total == x.size
    assert megabytes < 20, "the array has 57 MiB"


def test_rows_of_a_compressed_array_are_known_to_lie_on_this_machine_alone(tmp_path: Path) -> None:
    x = np.ones((6000, 1, 20, 3), np.float32)
    for save_as, alone in ((np.savez, False), (np.savez_compressed, True)):
        save_as(tmp_path / "a.npz", X=x, ptr=np.arange(0, 6001, 60), label=np.arange(100) % 3)
        assert is_unpacked(open_sources([tmp_path / "a.npz"]).entries[0].place) is alone
    out = str(tmp_path / "a.h5")
    assert build([str(tmp_path / "a.npz"), "--out", out, "--engine", "ray"]) == 2


def test_an_option_that_the_format_does_not_use_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--labels is not used by format arrays, which .*a.npz has; leave it out"):
        open_sources([save(tmp_path / "a.npz")], Reading(labels=tmp_path / "labels.csv"))

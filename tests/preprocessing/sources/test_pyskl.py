"""pyskl's annotations: values, scores, splits and bodies come out as they went in."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import Reading, SourceError, open_sources


def annotation(number: int, joints: int = 17, width: int = 2, people: int = 1, **other: object) -> dict:
    rng = np.random.default_rng(number)
    keypoint = rng.uniform(1, 600, (people, 12 + number % 3, joints, width)).astype(np.float16)
    made: dict = {"frame_dir": f"clip{number:03d}", "label": number % 3, "total_frames": keypoint.shape[1]}
    made |= {"img_shape": (1080, 1920), "original_shape": (1080, 1920), "keypoint": keypoint}
    if width == 2:
        made["keypoint_score"] = rng.uniform(0.2, 1, keypoint.shape[:3]).astype(np.float16)
    return made | other


def save(path: Path, annotations: object, split: object = None, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations} if split else annotations, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(("joints", "width"), [(17, 2), (25, 3)])
def test_clips_equal_the_arrays(tmp_path: Path, protocol: int, joints: int, width: int) -> None:
    annotations = [annotation(number, joints, width) for number in range(6)]
    source = open_sources([save(tmp_path / "a.pkl", annotations, {"train": ["clip000"], "val": ["clip001"]}, protocol)])
    assert source.columns["label"].tolist() == [0, 1, 2, 0, 1, 2]
    assert source.scores == (width == 2)
    assert (source.channels, source.unit) == ((("x", "y"), "px") if width == 2 else (("x", "y", "z"), "m"))
    assert source.joint_names[0] == ("nose" if joints == 17 else "spine base")
    for entry, made in zip(source.entries, annotations, strict=True):
        assert entry.name == made["frame_dir"]
        (track,) = entry.read().tracks
        assert np.array_equal(track.joints_FV3, made["keypoint"][0].astype(np.float32))
        if width == 2:
            assert np.array_equal(track.tracked_FV, made["keypoint_score"][0])


def test_named_splits_become_protocols_and_two_people_are_kept(tmp_path: Path) -> None:
    annotations = [annotation(number, people=1 + number % 3) for number in range(30)]
    names = [made["frame_dir"] for made in annotations]
    split = {"xsub_train": names[:20], "xsub_val": names[20:], "train2": names[10:], "test2": names[:10]}
    path = save(tmp_path / "a.pkl", annotations, split)
    assert build([str(path), "--out", str(tmp_path / "a.h5")]) == 0
    file = open_file(tmp_path / "a.h5")
    assert file.default_protocol == "xsub"
    assert file.splits["xsub"]["test"].tolist() == list(range(20, 30)), "val of the source is its test"
    assert sorted([*file.splits["xsub"]["train"], *file.splits["xsub"]["val"]]) == list(range(20))
    assert file.splits["2"]["test"].tolist() == list(range(10))
    assert file.clips["bodies"].tolist() == [1, 2, 2] * 10
    assert {stage["stage"] for stage in file.recipe["stages"]} >= {"people", "centre"}


def test_ntu_names_and_labels_give_classes_and_subjects(tmp_path: Path) -> None:
    annotations = [annotation(n, 25, 3, frame_dir=f"S001C002P00{n}R001A00{n}", label=n - 1) for n in (1, 2, 3)]
    source = open_sources([save(tmp_path / "a.pkl", annotations)])
    assert source.class_names[:2] == ["drink water", "eat meal/snack"]
    assert len(source.class_names) == 60
    assert source.columns["subject"].tolist() == [1, 2, 3]


def test_a_score_of_zero_is_an_absent_joint(tmp_path: Path) -> None:
    made = annotation(0)
    made["keypoint_score"][0, 3, 5] = 0
    (entry,) = open_sources([save(tmp_path / "a.pkl", [made])]).entries
    (track,) = entry.read().tracks
    assert track.joints_FV3[3, 5].tolist() == [0, 0]
    assert track.tracked_FV is not None
    assert (track.tracked_FV == 0).sum() == 1


def test_a_score_in_the_place_of_a_coordinate_is_recognised(tmp_path: Path) -> None:
    made = annotation(0, 17, 3)
    made["keypoint"][..., 2] = np.linspace(0.1, 1, 17)
    path = save(tmp_path / "a.pkl", [made])
    assert open_sources([path]).channels == ("x", "y")
    assert open_sources([path], Reading(channels="xyz")).channels == ("x", "y", "z")


def test_a_clip_with_other_joints_is_rejected_alone(tmp_path: Path) -> None:
    source = open_sources([save(tmp_path / "a.pkl", [annotation(0), annotation(1, joints=18)])])
    assert source.entries[0].read().frames == 12
    with pytest.raises(SkeletonError, match="joint-count: 18 joints; the first clip has 17"):
        source.entries[1].read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "unknown contents: expected a dict with annotations"),
        ([1, 2], "unknown contents"),
        ([], "contains no clips"),
        ([{"label": 1}], "keypoint of annotation 0 is NoneType"),
        ([annotation(0, width=4)], r"has shape \(1, 12, 17, 4\)"),
        ([annotation(0, keypoint=[[1.0]])], "is list"),
        ([annotation(0, keypoint_score=np.ones((1, 2)))], "keypoint_score of annotation 0 does not fit"),
        ([annotation(0), annotation(0)], "clip000 occurs twice"),
        ([annotation(0, label=-1)], "is negative"),
        ([annotation(0, keypoint=np.array([[[[None]]]], object))], "holds objects"),
        ({"annotations": [annotation(0)], "split": {"exam": []}}, "split 'exam' is unknown"),
        ({"annotations": [annotation(0)], "split": {"a_train": ["x"], "a_val": ["x"]}}, "is in train and in val"),
    ],
)
def test_what_does_not_fit_is_rejected_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_sources([save(tmp_path / "a.pkl", content)])
    assert "\n" not in str(caught.value)


def test_a_hostile_pickle_ends_the_build_with_2_and_runs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path}/sprung",))

    path = save(tmp_path / "a.pkl", [annotation(0, label=Evil())])
    assert build([str(path), "--out", str(tmp_path / "a.h5")]) == 2
    assert "it names posix.system, which is not data" in capfd.readouterr().err
    assert not (tmp_path / "sprung").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "sprung").exists(), "the trap works where pickles are trusted"


def test_a_truncated_pickle_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pkl", [annotation(number) for number in range(5)])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match="it ends too early"):
        open_sources([path])


def test_text_labels_are_classes_and_clips_outside_a_split_are_noted(tmp_path: Path) -> None:
    annotations = [annotation(number, label="ab"[number % 2]) for number in range(4)]
    split = {"x_train": ["clip000", "clip001"], "x_val": ["clip002", "ghost"]}
    source = open_sources([save(tmp_path / "a.pkl", annotations, split)])
    assert (source.class_names, source.columns["label"].tolist()) == (["a", "b"], [0, 1, 0, 1])
    assert source.notes == [
        "1 of 4 clips are in no part of x", "x names 1 clips that are not there, such as ghost"
    ]  # fmt: skip


def test_labels_of_arrays_without_the_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a", "b"], [0, 1])))
    with pytest.raises(SourceError, match=r"holds names and labels of ST-GCN's arrays.* Put val_data.npy beside it"):
        open_sources([tmp_path / "val_label.pkl"])


def test_labels_may_be_whole_floats_and_others_are_named(tmp_path: Path) -> None:
    whole = [annotation(number, label=float(number % 2)) for number in range(4)]
    assert open_sources([save(tmp_path / "a.pkl", whole)]).columns["label"].tolist() == [0, 1, 0, 1]
    for label in (0.5, np.eye(60)[1], [0, 1]):
        with pytest.raises(SourceError, match="label of annotation 1 is .*: must be an integer from 0, or text"):
            open_sources([save(tmp_path / "a.pkl", [annotation(0, label=0), annotation(1, label=label)])])
    with pytest.raises(SourceError, match="clip clip001 has no label"):
        open_sources([save(tmp_path / "a.pkl", [annotation(0, label=0), annotation(1, label=None)])])

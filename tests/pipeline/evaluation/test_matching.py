"""matching.py: a data file as a network of other data sees it, or one line that says why it cannot."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.matching import Match, match, places, plain_joint
from pipeline.run_folder import Metadata
from preprocessing.hdf5 import SkeletonFile, open_file

CENTRE = {"stage": "centre", "joint": 0}
SIZE = {"stage": "size", "metres": 0.5, "top": 3, "bottom": 1}
NAMES = [f"left j{v}" for v in range(5)] + [f"right j{v}" for v in range(5)]


@pytest.fixture
def file(data_file: Path) -> SkeletonFile:
    """The small file with named joints and stages."""
    return dataclasses.replace(open_file(data_file), joint_names=NAMES, recipe={"stages": [CENTRE, SIZE]})


def matched(file: SkeletonFile, like: SkeletonFile, **changes: Any) -> Match:
    """The file, matched to a network that was trained on `like`."""
    return match(dataclasses.replace(file, **changes), Metadata.of(like), "runs/x")


def test_the_same_file_stays_as_it_is(file: SkeletonFile) -> None:
    """The same memory, no note, every clip known."""
    found = matched(file, file)
    assert found.file.joints_RV3 is file.joints_RV3
    assert found.known_N.all()
    assert found.notes == []


def test_joints_and_classes_are_mapped_by_name(file: SkeletonFile) -> None:
    """Another order, another spelling, another numbering; a further joint and a further class are left out."""
    order = [3, 9, 1, 0, 2, 4, 8, 7, 6, 5]
    words = [" ".join(reversed(NAMES[v].upper().split())) for v in order]
    rows = np.concatenate([np.asarray(file.joints_RV3)[:, order], np.full((len(file.joints_RV3), 1, 3), 7)], axis=1)
    label = np.asarray(file.clips["label"])
    renamed = ["somersault", "Swing_1", "swing 0", "swing 2"]  # old 3 is unknown, 0 and 1 changed places
    numbers = np.array([2, 1, 3, 0])[label]
    found = matched(
        file,
        file,
        joint_names=[*words, "tail"],
        joints_RV3=rows.astype(np.float32),
        bones=np.zeros((0, 2), np.int64),
        recipe={"stages": [CENTRE | {"joint": order.index(0)}, SIZE | {"top": 0, "bottom": 2}]},
        class_names=renamed,
        clips=file.clips | {"label": numbers},
    )
    np.testing.assert_array_equal(found.file.joints_RV3, file.joints_RV3)
    np.testing.assert_array_equal(found.known_N, label != 3)
    np.testing.assert_array_equal(found.file.clips["label"][found.known_N], label[label != 3])
    assert found.file.joint_names == NAMES
    assert found.shared == ["Swing_1", "swing 0", "swing 2"]
    assert "by name; the file's 1 other joints are left out" in found.notes[0]
    assert "60 clips of 1 classes that the network does not know are left out: somersault." in found.notes[1]


def test_clips_about_another_joint_are_centred_again(file: SkeletonFile) -> None:
    """Joint 2 of the first body is the origin of the first frame, as if the file had been built so."""
    other = dataclasses.replace(file, recipe={"stages": [CENTRE | {"joint": 2}, SIZE]})
    found = matched(file, other).file
    for clip in (0, 3):  # one body, and two of which the second comes later
        first, frames = int(file.clips["first_body"][clip]), int(file.clips["frames"][clip])
        for body in range(first, first + int(file.clips["bodies"][clip])):
            rows = slice(int(file.body_start[body]), int(file.body_start[body]) + frames)
            origin = file.joints_RV3[int(file.body_start[first]), 2]
            there = file.present_R[rows]
            np.testing.assert_allclose(found.joints_RV3[rows][there], file.joints_RV3[rows][there] - origin, atol=1e-6)
            assert not found.joints_RV3[rows][~there].any()
    assert found.joints_RV3 is not file.joints_RV3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"joint_names": [*NAMES[:8], "nose", "tail"]}, r"has no right j3, right j4: runs/x was trained on 10 joints"),
        ({"recipe": {"stages": [CENTRE]}}, r"other stages: centre .* after size \(bottom left j1"),
        ({"recipe": {"stages": [CENTRE, SIZE | {"metres": 1.0}]}}, r"other stages: size .*metres 1.0"),
        ({"class_names": ["a", "b", "c", "d"]}, r"None is shared: name the same actions"),
    ],
)
def test_what_does_not_fit_is_rejected(file: SkeletonFile, changes: dict[str, Any], words: str) -> None:
    """Joints, stages and classes, each with what is there and what was expected."""
    with pytest.raises(ValueError, match=words):
        matched(file, file, **changes)


def test_other_channels_are_rejected(file: SkeletonFile) -> None:
    """Two values per joint for a network of three."""
    with pytest.raises(ValueError, match=r"has 2 channels per joint, and runs/x was trained on 3"):
        matched(file, file, joints_RV3=np.zeros((len(file.joints_RV3), 10, 2), np.float32))


def test_stages_that_select_bodies_may_differ(file: SkeletonFile) -> None:
    """With a note."""
    found = matched(file, file, recipe={"stages": [{"stage": "length", "frames": 11}, CENTRE, SIZE]})
    assert "Bodies were selected in another way" in found.notes[0]


def test_numbers_are_no_names(file: SkeletonFile) -> None:
    """`joint 3` of a file without names may be anything: equal bones decide. `class 2` likewise, by their number."""
    unnamed = [f"joint {v}" for v in range(10)]
    assert "by their number" in matched(file, file, joint_names=unnamed).notes[0]
    with pytest.raises(ValueError, match="has other bones, and joints have no names"):
        matched(file, file, joint_names=unnamed, bones=file.bones[::-1, ::-1])
    numbered = dataclasses.replace(file, class_names=[f"class {k}" for k in range(7)])
    with pytest.raises(ValueError, match="Without class names on both sides, both need as many"):
        matched(file, numbered, class_names=[f"class {k}" for k in range(4)])


def test_names_that_become_equal_are_compared_as_they_are() -> None:
    """`A` and `a` are two names."""
    assert places(["A", "a"], ["a", "A"]) == [1, 0]
    assert places(["Hip_Left", "b"], ["left hip", "x"], plain_joint) == [0, -1]

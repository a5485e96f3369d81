"""The facts of NTU RGB+D agree with what its authors published."""

import numpy as np
import pytest

from preprocessing import ntu


def test_a_name_says_where_who_and_what() -> None:
    assert ntu.parse_name("S001C002P003R002A013") == (1, 2, 3, 2, 13)


@pytest.mark.parametrize(
    "name",
    ["", "S001C002P003R002A013.skeleton", "S1C2P3R2A13", "S001C002P003R002A121", "S001C002P003R002A000"]
    + ["S000C002P003R002A013", "S001C000P003R002A013", "S001C002P000R002A013", "S001C002P003R000A013"],
)
def test_another_name_is_rejected_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="names action|expected a name like|has a number 0"):
        ntu.parse_name(name)


def test_the_bones_are_a_tree_over_all_joints() -> None:
    assert ntu.BONES.shape == (24, 2)
    assert sorted(ntu.BONES[:, 1]) == list(range(1, 25))
    reached = {0}
    for _ in range(25):
        reached |= {int(child) for parent, child in ntu.BONES if parent in reached}
    assert reached == set(range(25))


def test_joints_classes_and_missing_lists_have_the_published_sizes() -> None:
    assert len(ntu.JOINT_NAMES) == 25
    assert len(ntu.CLASS_NAMES) == 120
    assert len(ntu.MISSING_60) == 302
    assert len(ntu.MISSING_120) == 535
    assert ntu.MISSING_60 < ntu.MISSING_120


def test_half_of_the_subjects_train_and_one_in_five_is_held_out() -> None:
    assert len(ntu.XSUB_TRAIN) == 53
    assert len([s for s in ntu.XSUB_TRAIN if s <= 40]) == 20
    assert sorted(ntu.VAL_SUBJECTS & ntu.XSUB_TRAIN) == [8, 16, 27, 38, 50, 56, 74, 83, 91, 97]
    assert sorted(ntu.VAL_SUBJECTS - ntu.XSUB_TRAIN) == [11, 23, 32, 40, 48, 63, 68, 75, 88, 102]


def test_the_official_rules() -> None:
    setup, camera, subject = np.array([1, 2, 32]), np.array([1, 2, 3]), np.array([1, 3, 103])
    assert ntu.is_train("xsub", setup, camera, subject).tolist() == [True, False, True]
    assert ntu.is_train("xview", setup, camera, subject).tolist() == [False, True, True]
    assert ntu.is_train("xset", setup, camera, subject).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="xsub, xview, xset"):
        ntu.is_train("xfold", setup, camera, subject)

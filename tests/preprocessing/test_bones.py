"""bones.py: only a tree of integers inside the joints is accepted, and the message says what is wrong."""

import numpy as np
import pytest

from preprocessing import ntu
from preprocessing.bones import check_bones
from preprocessing.layouts import LAYOUTS

CHAIN = np.array([[4, 3], [3, 2], [2, 1], [1, 0]])  # from its root, which has the highest number
TREE = np.array([[1, 0], [1, 2], [2, 3], [2, 4]])


@pytest.mark.parametrize(
    "bones", [TREE, TREE[::-1], TREE.astype(np.uint8), TREE.tolist(), CHAIN, np.zeros((0, 2), np.int64)]
)
def test_a_tree_in_any_order_is_accepted_and_so_are_no_bones(bones: np.ndarray) -> None:
    check_bones(bones, 5)


def test_known_skeletons_are_trees() -> None:
    check_bones(ntu.BONES, 25)
    for layout in LAYOUTS.values():
        check_bones(layout.bone_array, len(layout.joint_names))


@pytest.mark.parametrize(
    ("bones", "message"),
    [
        (TREE + 0.0, "bones has type float64: must be integers"),
        (TREE[:, 0], r"bones has shape \(4,\): must be \(V-1, 2\)"),
        (TREE + [0, 9], r"bone \(1, 9\) is out of range: joints are numbered 0 to 4"),
        (TREE - [2, 0], r"bone \(-1, 0\) is out of range"),
        ([[0, 1], [1, 2], [2, 0], [3, 4]], "joints 0, 2, 1, 0 form a cycle"),
        (TREE[:3], "3 bones for 5 joints, which need 4"),
        ([[1, 0], [1, 2], [2, 3], [4, 3]], "joint 3 has two parents, 2 and 4"),
        ([[1, 0], [1, 2], [2, 3], [4, 4]], r"bone \(4, 4\) joins a joint to itself"),
        ([[1, 0], [1, 0], [1, 2], [2, 3]], r"bone \(1, 0\) occurs twice"),
        (TREE[:, ::-1], r"look like \(child, parent\), because joint 1 has two parents"),
        ([[1, 0], [2, 1], [3, 2], [4, 3]], r"look like \(child, parent\), because the bone of the root comes last"),
    ],
)
def test_anything_else_is_rejected_in_one_line(bones: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_bones(bones, 5)
    assert "\n" not in str(caught.value)

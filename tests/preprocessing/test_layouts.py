"""Layouts are trees with mirror pairs and reference joints."""

import numpy as np
import pytest

from preprocessing.layouts import LAYOUTS, layout


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_a_tree_whose_sides_mirror_each_other(name: str) -> None:
    known = layout(name)
    joints = len(known.joint_names)
    assert joints == int("".join(filter(str.isdigit, name)))
    assert len(set(known.joint_names)) == joints
    assert len(known.bones) == joints - 1
    assert sorted(child for _, child in known.bones) == [j for j in range(joints) if j != known.root]
    reached = {known.root}
    for _ in range(joints):
        reached |= {child for parent, child in known.bones if parent in reached}
    assert len(reached) == joints, "every joint hangs on the root"
    sides = [joint for joint, joint_name in enumerate(known.joint_names) if "left" in joint_name]
    assert [left for left, _ in known.mirror] == sides
    pairs = dict(known.mirror) | {right: left for left, right in known.mirror}
    mirrored = {tuple(sorted((pairs.get(a, a), pairs.get(b, b)))) for a, b in known.bones}
    crossing = mirrored ^ {tuple(sorted(bone)) for bone in known.bones}
    assert len(crossing) <= 2, "bones of the left are bones of the right, but where the root lies on one side"
    assert known.shoulders is not None
    assert [known.joint_names[joint] for joint in known.shoulders] == ["left shoulder", "right shoulder"]
    assert known.spine is not None
    assert known.landmarks.shoulders == known.shoulders


def test_layouts_have_the_published_order() -> None:
    assert layout("coco17").joint_names.index("left hip") == 11
    assert layout("openpose25").joint_names.index("mid hip") == 8
    assert layout("openpose18").joint_names.index("neck") == 1
    assert layout("mediapipe33").joint_names.index("left wrist") == 15
    assert layout("kinect20").joint_names.index("left shoulder") == 4
    assert np.array_equal(layout("kinect25").bone_array, layout("ntu25").bone_array)


def test_an_unknown_layout_gets_the_names() -> None:
    with pytest.raises(ValueError, match=r"--layout 'coco' is unknown; did you mean coco17\? choose one of ntu25, "):
        layout("coco")

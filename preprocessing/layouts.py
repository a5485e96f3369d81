"""Skeleton layouts by name: joints in order, bones, and the joints that stages use as references.

A layout is a tree: every joint but the root is the child of one bone. Left and right joints are mirror images of each
other by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.stages.recipes import Landmarks


class Layout(NamedTuple):
    """V joints of one skeleton."""

    name: str
    joint_names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]  # (parent, child)
    shoulders: tuple[int, int] | None = None  # left, right
    spine: tuple[int, int] | None = None  # top, bottom
    centre: int | None = None  # None: the root

    @property
    def root(self) -> int:
        """Index of the joint that has no parent."""
        children = {child for _, child in self.bones}
        return next(joint for joint in range(len(self.joint_names)) if joint not in children)

    @property
    def mirror(self) -> tuple[tuple[int, int], ...]:
        """Pairs of joints (left, right) that are mirror images of each other."""
        index = {name: joint for joint, name in enumerate(self.joint_names)}
        return tuple((joint, index[name.replace("left", "right")]) for name, joint in index.items() if "left" in name)

    @property
    def bone_array(self) -> np.ndarray:
        """Bones as an array: (V-1, 2) int64."""
        return np.array(self.bones, np.int64).reshape(-1, 2)

    @property
    def landmarks(self) -> Landmarks:
        """Joints that stages use as references."""
        return Landmarks(self.root if self.centre is None else self.centre, self.shoulders, self.spine)


def _chains(*chains: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Bones of chains of joints, each from its parent outward."""
    return tuple(pair for chain in chains for pair in zip(chain, chain[1:], strict=False))


_NTU = Layout(
    "ntu25",
    ntu.JOINT_NAMES,
    tuple((int(parent), int(child)) for parent, child in ntu.BONES),
    ntu.SHOULDERS,
    ntu.SPINE,
    ntu.CENTRE_JOINT,
)

# Kinect v1, as its SDK numbers the joints; NW-UCLA has this order.
_KINECT20 = Layout(
    "kinect20",
    (
        "hip centre", "spine", "shoulder centre", "head",
        "left shoulder", "left elbow", "left wrist", "left hand",
        "right shoulder", "right elbow", "right wrist", "right hand",
        "left hip", "left knee", "left ankle", "left foot",
        "right hip", "right knee", "right ankle", "right foot",
    ),
    _chains((0, 1, 2, 3), (2, 4, 5, 6, 7), (2, 8, 9, 10, 11), (0, 12, 13, 14, 15), (0, 16, 17, 18, 19)),
    (4, 8),
    (2, 0),
)  # fmt: skip

# The same joints in the order of UTD-MHAD, which counts the trunk from the head down.
_UTD20 = Layout(
    "utd20",
    ("head", "shoulder centre", "spine", "hip centre", *_KINECT20.joint_names[4:]),
    _chains((3, 2, 1, 0), (1, 4, 5, 6, 7), (1, 8, 9, 10, 11), (3, 12, 13, 14, 15), (3, 16, 17, 18, 19)),
    (4, 8),
    (1, 3),
)

_FACE = ("nose", "left eye", "right eye", "left ear", "right ear")
# COCO has no joint on the spine: the left side of the trunk measures the size of the body.
_COCO17 = Layout(
    "coco17",
    (
        *_FACE, "left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist",
        "left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    _chains((0, 1, 3), (0, 2, 4), (0, 5, 7, 9), (0, 6, 8, 10), (5, 11, 13, 15), (6, 12, 14, 16)),
    (5, 6),
    (5, 11),
)  # fmt: skip

# https://github.com/CMU-Perceptual-Computing-Lab/openpose/blob/master/doc/02_output.md
_OPENPOSE18 = Layout(
    "openpose18",
    (
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
        "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
        "right eye", "left eye", "right ear", "left ear",
    ),
    _chains((1, 0, 14, 16), (0, 15, 17), (1, 2, 3, 4), (1, 5, 6, 7), (1, 8, 9, 10), (1, 11, 12, 13)),
    (5, 2),
    (1, 11),
)  # fmt: skip
_OPENPOSE25 = Layout(
    "openpose25",
    (
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
        "mid hip", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
        "right eye", "left eye", "right ear", "left ear",
        "left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel",
    ),
    _chains(
        (8, 1, 0, 15, 17), (0, 16, 18), (1, 2, 3, 4), (1, 5, 6, 7),
        (8, 9, 10, 11, 22, 23), (11, 24), (8, 12, 13, 14, 19, 20), (14, 21),
    ),
    (5, 2),
    (1, 8),
)  # fmt: skip

# https://ai.google.dev/edge/mediapipe/solutions/vision/pose_landmarker
_MEDIAPIPE33 = Layout(
    "mediapipe33",
    (
        "nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye", "right eye outer",
        "left ear", "right ear", "mouth left", "mouth right", "left shoulder", "right shoulder",
        "left elbow", "right elbow", "left wrist", "right wrist", "left pinky", "right pinky",
        "left index", "right index", "left thumb", "right thumb", "left hip", "right hip", "left knee", "right knee",
        "left ankle", "right ankle", "left heel", "right heel", "left foot index", "right foot index",
    ),
    _chains(
        (0, 1, 2, 3, 7), (0, 4, 5, 6, 8), (0, 9), (0, 10),
        (0, 11, 13, 15, 17), (15, 19), (15, 21), (0, 12, 14, 16, 18), (16, 20), (16, 22),
        (11, 23, 25, 27, 29), (27, 31), (12, 24, 26, 28, 30), (28, 32),
    ),
    (11, 12),
    (11, 23),
)  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _NTU,
        _NTU._replace(name="kinect25"),  # NTU RGB+D has the joints of the Kinect v2 in its SDK's order
        _KINECT20,
        _UTD20,
        _COCO17,
        _OPENPOSE18,
        _OPENPOSE25,
        _MEDIAPIPE33,
    )
}
"""Layout name, as `--layout` takes it -> layout."""


def layout(name: str) -> Layout:
    """Return a layout by name; ValueError with the known names for another."""
    if name not in LAYOUTS:
        near = get_close_matches(name, LAYOUTS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"--layout {name!r} is unknown; {hint}choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def plain_layout(joints: int) -> Layout:
    """Return a layout of joints that nothing is known of: numbered names and no bones."""
    return Layout("", tuple(f"joint {joint}" for joint in range(joints)), ())

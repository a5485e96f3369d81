"""Facts of NTU RGB+D and NTU RGB+D 120: sample names, joints, bones, classes, official splits, missing samples."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import NamedTuple

import numpy as np

JOINT_NAMES = (
    "spine base", "spine mid", "neck", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
    "spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb",
)  # fmt: skip
# (parent, child), rooted at the spine base; hand tip and thumb both hang on the hand, as in the Kinect's own tree.
BONES = np.array(
    [
        (0, 1), (1, 20), (20, 2), (2, 3),
        (20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (7, 22),
        (20, 8), (8, 9), (9, 10), (10, 11), (11, 23), (11, 24),
        (0, 12), (12, 13), (13, 14), (14, 15),
        (0, 16), (16, 17), (17, 18), (18, 19),
    ],
    dtype=np.int64,
)  # fmt: skip
CENTRE_JOINT = 1
SHOULDERS = (4, 8)  # left, right
SPINE = (20, 0)  # top, bottom
FPS = 30.0

_FACTS = files("preprocessing") / "facts"


def _lines(name: str) -> list[str]:
    return (_FACTS / name).read_text(encoding="utf-8").splitlines()


CLASS_NAMES = tuple(line.split("\t")[1] for line in _lines("class_names.tsv"))
MISSING_60 = frozenset(_lines("missing_ntu60.txt"))
MISSING_120 = frozenset(_lines("missing_ntu120.txt"))
MISSING = MISSING_60 | MISSING_120
"""Names whose skeletons are officially missing or incomplete."""

XSUB_TRAIN = frozenset(
    [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    + [45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89]
    + [91, 92, 93, 94, 95, 97, 98, 100, 103]
)
VAL_SUBJECTS = frozenset(sorted(XSUB_TRAIN)[4::5]) | frozenset(sorted(set(range(1, 107)) - XSUB_TRAIN)[4::5])
"""Every fifth subject of each side of xsub: held out of train in every protocol, so no subject is in train and val."""

PUBLISHED_CLIPS = {60: 56_578, 120: 113_945}
PUBLISHED_SPLITS = {
    (60, "xsub"): (40_091, 16_487),
    (60, "xview"): (37_646, 18_932),
    (120, "xsub"): (63_026, 50_919),
    (120, "xset"): (54_468, 59_477),
}

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


class SampleName(NamedTuple):
    """Numbers in a sample's name; all start at 1."""

    setup: int
    camera: int
    subject: int
    replication: int
    action: int


def parse_name(name: str) -> SampleName:
    """Parse a name like S001C002P003R002A013; ValueError names what is wrong with another."""
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is not an NTU sample name; expected a name like S001C002P003R002A013")
    sample = SampleName(*map(int, match.groups()))
    if not 1 <= sample.action <= len(CLASS_NAMES):
        raise ValueError(f"{name!r} names action {sample.action}; NTU has 1 to {len(CLASS_NAMES)}")
    if not all(sample):
        raise ValueError(f"{name!r} has a number 0; setups, cameras, subjects and replications count from 1")
    return sample


def is_train(protocol: str, setup_N: np.ndarray, camera_N: np.ndarray, subject_N: np.ndarray) -> np.ndarray:
    """Apply the official rule of `xsub`, `xview` (train: cameras 2, 3) or `xset` (train: even setups).

    Args:
        protocol: Name of the protocol.
        setup_N: Setup numbers, from 1.
        camera_N: Camera numbers, from 1.
        subject_N: Subject numbers, from 1.

    Returns:
        (N,) bool, True for train.

    Raises:
        ValueError: The protocol is unknown.
    """
    if protocol == "xsub":
        return np.isin(subject_N, sorted(XSUB_TRAIN))
    if protocol == "xview":
        return np.isin(camera_N, (2, 3))
    if protocol == "xset":
        return np.asarray(setup_N) % 2 == 0
    raise ValueError(f"NTU has no protocol {protocol!r}; it has xsub, xview, xset")

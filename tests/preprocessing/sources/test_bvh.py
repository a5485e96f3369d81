"""BVH: positions by forward kinematics, against ones computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources

TEXT = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT LeftUpLeg
  {
    OFFSET 1 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -2 0
    }
  }
  JOINT RightUpLeg
  {
    OFFSET -1 0 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -2 0
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.04
0 10 0 0 0 0 0 0 0 0 0 0
0 10 5 90 0 0 0 0 0 0 0 0
0 10 0 0 0 90 0 90 0 90 0 0
"""


def test_positions_follow_offsets_and_angles(tmp_path: Path) -> None:
    (tmp_path / "kick_1.bvh").write_text(TEXT)
    source = open_sources([tmp_path])
    assert source.joint_names == ["hips", "left up leg", "left up leg end", "right up leg", "right up leg end"]
    assert source.bones.tolist() == [[0, 1], [1, 2], [0, 3], [3, 4]]
    assert source.fps == pytest.approx(25)
    (track,) = source.entries[0].read().tracks
    expected = [
        [[0, 10, 0], [1, 10, 0], [1, 8, 0], [-1, 10, 0], [-1, 8, 0]],
        # The hips turn by 90 degrees about z: x becomes y, and y becomes -x.
        [[0, 10, 5], [0, 11, 5], [2, 11, 5], [0, 9, 5], [2, 9, 5]],
        # The hips turn about y (x becomes -z); the left leg about x (-y becomes -z, which the hips turn to -x), the
        # right one about z (-y becomes x, which the hips turn to -z).
        [[0, 10, 0], [0, 10, -1], [-2, 10, -1], [0, 10, 1], [0, 10, -1]],
    ]
    np.testing.assert_allclose(track.joints_FV3, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MOTION", "MOTOR", "truncated: the file ends before MOTION"),
        ("0 10 5 90", "0 x 5 90", ":29: bad-number"),
        ("0 10 5 90", "10 5 90", ":29: field-count: 11 finite numbers expected: 12"),
        ("Frames: 3", "Frames: 4", "truncated: 3 frames; MOTION announces 4"),
        ("OFFSET 1 0 0", "OFFSET 1 0", ":8: bad-number: 'OFFSET 1 0' is invalid"),
        ("CHANNELS 3 Z", "CHANNELS 4 Z", ":9: bad-number"),
        ("Frame Time: 0.04", "Frame Time: no", "MOTION needs"),
        ("Frame Time: 0.04", "Frame Time: 0.02", "frame-rate: 50 frames per second; the first file has 25"),
        ("}\nMOTION", "MOTION", "joint-count: the hierarchy is not one closed tree"),
        ("JOINT LeftUpLeg", "JOINT LeftLeg", "its joints differ from those of the first file"),
    ],
)
def test_a_damaged_file_is_rejected_alone_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    (tmp_path / "kick_1.bvh").write_text(TEXT)
    (tmp_path / "kick_2.bvh").write_text(TEXT.replace(old, new, 1))
    first, second = open_sources([tmp_path]).entries
    assert first.read().frames == 3
    with pytest.raises(SkeletonError, match=message):
        second.read()


def test_files_that_all_are_damaged_name_the_first(tmp_path: Path) -> None:
    (tmp_path / "kick_1.bvh").write_text("HIERARCHY\nROOT a\n{\n")
    with pytest.raises(SourceError, match="kick_1:3: truncated"):
        open_sources([tmp_path])

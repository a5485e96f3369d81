"""distribution.py: what is typical of training clips, and which clips are far from it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import distribution
from pipeline.run_folder import Metadata
from preprocessing.hdf5 import open_file


def test_a_clip_by_hand() -> None:
    """Two joints 1 m apart that move 0.1 m per frame; a gap in presence and an absent joint move nothing."""
    joints = np.zeros((1, 5, 2, 3), np.float32)
    joints[0, :, 0, 0] = [1.0, 1.1, 1.2, 0.0, 9.0]
    joints[0, :, 1, :2] = [[1.0, 1.0], [1.1, 1.0], [0.0, 0.0], [0, 0], [9.0, 1.0]]
    present = np.array([[True, True, True, False, True]])
    found = distribution.of_clip(joints, present)
    assert found == pytest.approx({"frames": 5, "size": 1.0, "speed": 0.1, "motion": 0}, abs=1e-6)
    joints[0, 1, 1, 1] += 0.4  # one joint of two moves by 0.4: each by 0.2 against the body
    assert distribution.of_clip(joints, present)["motion"] == pytest.approx(np.mean([0.2, 0.2, 0.0]), abs=1e-6)


def test_the_training_data_are_kept_and_far_clips_are_named(data_file: Path) -> None:
    """Length, size and speed, each with its own warning; a clip of the file has none."""
    metadata = Metadata.of(open_file(data_file))
    low, middle, high = metadata.typical["frames"]
    assert 12 <= low <= middle <= high <= 30
    rng = np.random.default_rng(0)
    rest = np.stack([np.zeros(10), np.linspace(-0.9, 0.9, 10), np.zeros(10)], axis=1)
    clip = (rest + rng.normal(0, 0.04, (1, 20, 10, 3))).astype(np.float32)

    def warned(joints: np.ndarray) -> str:
        return " ".join(distribution.warnings(metadata.typical, joints, np.ones(joints.shape[:2], bool)))

    assert warned(clip) == ""
    assert "200 frames are far more than in training" in warned(np.tile(clip, (1, 10, 1, 1)))
    assert "The body measures 1.9e+03 m" in warned(clip * 1000) or "The body measures" in warned(clip * 1000)
    still = np.repeat(clip[:, :1], 20, axis=1)
    assert "joints move 0 m" in warned(still)
    assert distribution.warnings({}, clip * 1000, np.ones((1, 20), bool)) == ()


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ((1, 1, 1), ""),
        ((-1, 1, -1), ""),  # a half turn about the vertical
        ((1, -1, 1), "stand along y in training, and this one along -y"),
        (None, "stand along y in training, and this one along z"),
    ],
)
def test_reversed_and_swapped_axes_are_named(axes: tuple[int, int, int] | None, words: str) -> None:
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.1, (10, 3)) + np.linspace(-0.9, 0.9, 10)[:, None] * [0, 1, 0]
    present = np.ones((1, 20), bool)
    clips = [(pose + rng.normal(0, 0.05, (1, 20, 10, 3)), present) for _ in range(5)]
    typical = distribution.quantiles(clips)
    clip = clips[0][0][..., [0, 2, 1]] if axes is None else clips[0][0] * axes
    (*_, text) = ("", *distribution.warnings(typical, clip, present))
    assert words in text
    assert bool(text) == bool(words)
    assert "20 frames are far fewer" in distribution.warnings(typical | {"frames": [60, 70, 80]}, clip, present)[0]
    assert not any("stand along" in line for line in distribution.warnings({**typical, "pose": []}, clip, present))

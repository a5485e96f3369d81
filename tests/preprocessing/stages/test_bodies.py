"""Functions that several stages share."""

import numpy as np
import pytest

from preprocessing.stages import bodies
from tests.preprocessing.stages.examples import as_body, track


def test_motion_is_the_sum_of_the_population_variances_per_axis() -> None:
    points = np.array([[[0, 0, 0], [2, 0, 0]], [[0, 4, 0], [2, 4, 6]]], np.float32)
    assert bodies.motion(points) == pytest.approx(1 + 4 + 6.75)
    assert bodies.extents(points).tolist() == [[2, 0], [2, 0]]


def test_merged_bodies_are_in_the_order_of_their_frames() -> None:
    late, early = as_body(track(1, range(5, 9), 0.3)), as_body(track(2, range(5), 0.1))
    merged = bodies.merge(late, early)
    assert merged.body_id == 1
    assert merged.frame_F.tolist() == list(range(9))
    assert np.array_equal(merged.joints_FV3, np.concatenate([early.joints_FV3, late.joints_FV3]))
    assert merged.motion == bodies.motion(merged.joints_FV3)


@pytest.mark.parametrize(("frames", "common"), [(range(5, 9), False), (range(4, 9), True)])
def test_bodies_overlap_in_a_common_frame(frames: range, common: bool) -> None:
    assert bodies.overlap(as_body(track(1, range(5), 0.1)), as_body(track(2, frames, 0.1))) == common

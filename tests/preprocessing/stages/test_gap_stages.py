"""Stages that mark, fill and smooth absent joints."""

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.stages import Clip, Stage, apply
from preprocessing.stages.gaps import LEAST_KNOTS

T, V = 12, 4
ABSENT = Stage("absent", {"zeros": 1, "nan": 1, "origin": -1})


def joints(seed: int = 0) -> np.ndarray:
    """A curve per joint, far from zero: (T, V, 3)."""
    time = np.arange(T)[:, None, None]
    return (2 + 0.1 * np.sin(time / 3 + np.arange(V)[:, None] + np.arange(3) + seed)).astype(np.float32)


def run(x_FV3: np.ndarray, *stages: Stage, frames: np.ndarray | None = None, marks: np.ndarray | None = None) -> Clip:
    frame_F = np.arange(len(x_FV3)) if frames is None else frames
    return apply("clip", RawClip(T, (Track(0, frame_F, x_FV3, marks),)), stages)


def holes(clip: Clip) -> list[list[int]]:
    """(frame, joint) of each absent joint of a body that is present."""
    if clip.tracked_MTV is None:
        return []
    return [[t, v] for t, v in np.argwhere(clip.tracked_MTV[0] == 0).tolist() if clip.present_MT[0, t]]


def test_zeros_and_nan_are_absent_joints() -> None:
    x = joints()
    x[3, 1], x[5, 2, 0] = 0, np.nan
    clip = run(x, ABSENT)
    assert holes(clip) == [[3, 1], [5, 2]]
    assert not clip.joints_MTV3[0, 5, 2].any()
    assert [(d.rule, d.value) for d in clip.decisions] == [("absent", pytest.approx(2 / (T * V)))]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"zeros": 0}, [[5, 2]]), ({"origin": 1}, [[5, 2]]), ({"origin": 0}, [[3, 1], [5, 2]])],
)
def test_zeros_mean_a_joint_where_the_source_says_so(parameters: dict[str, float], expected: list[list[int]]) -> None:
    x = joints()
    x[3, 1], x[5, 2, 0] = 0, np.nan
    assert holes(run(x, ABSENT._replace(parameters={**ABSENT.parameters, **parameters}))) == expected


def test_nan_may_reject_the_clip_with_frame_and_joint() -> None:
    x = joints()
    x[5, 2, 0] = np.nan
    strict = ABSENT._replace(parameters={**ABSENT.parameters, "nan": 0})
    for stages in ((strict,), ()):
        with pytest.raises(SkeletonError, match="joint 2 of body 0 in frame 5 is NaN") as caught:
            run(x, *stages)
        assert caught.value.reason == "non-finite"
    x[5, 2, 0] = np.inf
    with pytest.raises(SkeletonError, match="joint 2 of body 0 in frame 5 is infinite"):
        run(x, ABSENT)


def test_a_frame_without_any_joint_is_a_frame_without_the_body() -> None:
    x = joints()
    x[4] = np.nan
    clip = run(x, ABSENT)
    np.testing.assert_array_equal(np.flatnonzero(~clip.present_MT[0]), [4])
    assert clip.tracked_MTV is None
    with pytest.raises(SkeletonError, match="no frame has a joint that was found"):
        run(np.full((T, V, 3), np.nan, np.float32), ABSENT)


def test_marks_of_the_source_are_kept_and_its_zeros_are_coordinates() -> None:
    x = joints()
    x[3, 1] = 0
    scores = np.full((T, V), 0.5, np.float16)
    scores[7, 0] = 0
    clip = run(x, ABSENT, marks=scores)
    assert holes(clip) == [[7, 0]]
    assert clip.tracked_MTV is not None
    assert clip.tracked_MTV[0, 3, 1] == 0.5


def gappy(*gaps: tuple[slice, int]) -> tuple[np.ndarray, np.ndarray]:
    marks = np.ones((T, V), bool)
    for where in gaps:
        marks[where] = False
    return joints() * marks[..., None], marks


def test_fill_interpolates_gaps_up_to_its_limit() -> None:
    """By hand: 3 frames inside, 4 are too many, one at each end takes the nearest frame."""
    x, marks = gappy((slice(2, 5), 0), (slice(2, 6), 1), (slice(0, 2), 2), (slice(10, 12), 3))
    clip = run(x, Stage("fill", {"gap": 3, "spline": 0}), marks=marks)
    assert holes(clip) == [[t, 1] for t in range(2, 6)]
    filled = clip.joints_MTV3[0]
    for t in (2, 3, 4):
        np.testing.assert_allclose(filled[t, 0], x[1, 0] + (x[5, 0] - x[1, 0]) * (t - 1) / 4, atol=1e-6)
    np.testing.assert_array_equal(filled[:2, 2], x[[2, 2], 2])
    np.testing.assert_array_equal(filled[10:, 3], x[[9, 9], 3])
    np.testing.assert_array_equal(filled[marks], x[marks])
    assert [(d.rule, d.value, d.threshold) for d in clip.decisions] == [("fill", 7.0, 11.0)]


def test_a_gap_is_measured_in_true_frames() -> None:
    """Two rows of a body that was away between them are five frames apart."""
    frames = np.array([0, 1, 5, 6, 7, 8])
    marks = np.ones((6, V), bool)
    marks[2, 0] = False
    x = joints()[frames] * marks[..., None]
    assert holes(run(x, Stage("fill", {"gap": 3, "spline": 0}), frames=frames, marks=marks)) == [[5, 0]]
    clip = run(x, Stage("fill", {"gap": 4, "spline": 0}), frames=frames, marks=marks)
    np.testing.assert_allclose(clip.joints_MTV3[0, 5, 0], x[1, 0] + (x[3, 0] - x[1, 0]) * 4 / 5, atol=1e-6)


def test_a_spline_is_nearer_to_a_curve_than_a_line() -> None:
    x, marks = gappy((slice(4, 8), 0))
    line, curve = (run(x, Stage("fill", {"gap": 4, "spline": s}), marks=marks).joints_MTV3[0, 4:8, 0] for s in (0, 1))
    truth = joints()[4:8, 0]
    assert np.abs(curve - truth).max() < 0.3 * np.abs(line - truth).max()
    assert np.abs(line - truth).max() > 0.01


def test_too_few_frames_for_a_spline_are_filled_by_a_line() -> None:
    x, marks = gappy((slice(1, T - LEAST_KNOTS + 2), 0))
    line, curve = (run(x, Stage("fill", {"gap": T, "spline": s}), marks=marks).joints_MTV3 for s in (0, 1))
    np.testing.assert_array_equal(line, curve)


def test_a_filled_joint_has_the_lower_score_of_its_neighbours() -> None:
    scores = np.full((T, V), 0.75, np.float16)
    scores[4, 0], scores[3, 0] = 0, 0.25
    clip = run(joints(), Stage("fill", {"gap": 3, "spline": 0}), marks=scores)
    assert clip.tracked_MTV is not None
    assert clip.tracked_MTV[0, 4, 0] == 0.25


def test_smooth_is_a_weighted_mean_that_skips_absent_joints() -> None:
    """By hand, with weights 0.5, 1, 0.5 of a Hann window of three frames."""
    x, marks = gappy((slice(6, 7), 1))
    clip = run(x, Stage("smooth", {"frames": 3}), marks=marks)
    made = clip.joints_MTV3[0]
    np.testing.assert_allclose(made[4, 0], (0.5 * x[3, 0] + x[4, 0] + 0.5 * x[5, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(made[5, 1], (0.5 * x[4, 1] + x[5, 1]) / 1.5, atol=1e-6)
    np.testing.assert_allclose(made[0, 0], (x[0, 0] + 0.5 * x[1, 0]) / 1.5, atol=1e-6)
    assert not made[6, 1].any()
    assert holes(clip) == [[6, 1]]


def test_smooth_reduces_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (T, V, 3)).astype(np.float32)
    made = run(joints() + noise, Stage("smooth", {"frames": 5})).joints_MTV3[0]
    assert np.abs(made - joints()).mean() < 0.7 * np.abs(noise).mean()

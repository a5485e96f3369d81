"""Absent joints: no stage of recipe exact moves, measures or uses one; fallbacks are recorded."""

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.stages import Clip, Stage, apply, recipe
from tests.preprocessing.stages.examples import LANDMARKS, T, exact, track

CENTRE, YAW = Stage("centre", {"joint": 1}), Stage("yaw", {"left": 4, "right": 8})
SIZE = Stage("size", {"top": 20, "bottom": 0, "metres": 0.5})


def gaps(absent: list[tuple[int | slice, int]], body: Track | None = None, rubbish: float = 0.0) -> Track:
    """A body with absent joints, (frames, joint) each; their coordinates are `rubbish`."""
    body = body or track(1, range(T), 0.3)
    tracked_FV = np.ones(body.joints_FV3.shape[:2], bool)
    joints_FV3 = body.joints_FV3.copy()
    for where in absent:
        tracked_FV[where] = False
        joints_FV3[where] = rubbish
    return body._replace(joints_FV3=joints_FV3, tracked_FV=tracked_FV)


def run(*tracks: Track, stages: tuple[Stage, ...]) -> Clip:
    return apply("clip", RawClip(T, tracks), stages)


def rules(clip: Clip) -> list[str]:
    return [decision.rule for decision in clip.decisions]


@pytest.mark.parametrize("stages", [(CENTRE,), (CENTRE, YAW), (CENTRE, SIZE), (CENTRE, YAW, SIZE)])
def test_an_absent_joint_stays_zero_and_the_others_are_as_without_the_gap(stages: tuple[Stage, ...]) -> None:
    """Whatever its coordinates were; without its mark it would be minus the origin, 3 m away."""
    whole = run(track(1, range(T), 0.3), stages=stages)
    for rubbish in (0.0, 7.0):
        clip = run(gaps([(slice(5, 9), 11), (0, 6)], rubbish=rubbish), stages=stages)
        assert clip.tracked_MTV is not None
        np.testing.assert_array_equal(np.argwhere(~clip.tracked_MTV[0]), [[0, 6], *([t, 11] for t in range(5, 9))])
        assert not clip.joints_MTV3[~clip.tracked_MTV].any()
        np.testing.assert_array_equal(clip.joints_MTV3[clip.tracked_MTV], whole.joints_MTV3[clip.tracked_MTV])
        assert rules(clip) == []
    unmarked = gaps([(0, 6)])._replace(tracked_FV=None)
    assert np.abs(run(unmarked, stages=(CENTRE,)).joints_MTV3[0, 0, 6]).max() > 2.9


def test_an_origin_that_is_absent_at_first_is_taken_from_the_first_frame_that_has_it() -> None:
    clip = run(gaps([(slice(0, 3), 1)]), stages=(CENTRE,))
    assert (clip.joints_MTV3[0, 3, 1] == 0).all()
    assert [(d.rule, d.value) for d in clip.decisions] == [("centre-later", 3.0)]


def test_an_origin_that_is_always_absent_is_the_mean_of_what_was_found() -> None:
    body = gaps([(slice(None), 1)])
    clip = run(body, stages=(CENTRE,))
    assert body.tracked_FV is not None
    mean_3 = body.joints_FV3[0][body.tracked_FV[0]].mean(axis=0)
    np.testing.assert_allclose(clip.joints_MTV3[0, 0, 2], body.joints_FV3[0, 2] - mean_3, atol=1e-6)
    assert [(d.rule, d.value) for d in clip.decisions] == [("centre-mean", 24.0)]


def test_shoulders_are_taken_from_the_first_frame_that_has_both() -> None:
    whole = run(track(1, range(T), 0.3), stages=(YAW,))
    clip = run(gaps([(0, 4), (1, 8)]), stages=(YAW,))
    assert [(d.rule, d.value) for d in clip.decisions] == [("yaw-later", 2.0)]
    np.testing.assert_allclose(clip.joints_MTV3[0, 2:], whole.joints_MTV3[0, 2:], atol=1e-6)
    assert rules(run(gaps([(slice(None), 4)]), stages=(YAW,))) == ["yaw-undefined"]


def test_a_spine_is_measured_where_both_ends_were_found() -> None:
    clip = run(gaps([(slice(0, T, 2), 20)], rubbish=9.0), stages=(SIZE,))
    spine_F = np.linalg.norm(clip.joints_MTV3[0, 1::2, 20] - clip.joints_MTV3[0, 1::2, 0], axis=-1)
    assert np.median(spine_F) == pytest.approx(0.5)
    assert rules(run(gaps([(slice(None), 0)]), stages=(SIZE,))) == ["size-undefined"]


def test_bodies_are_chosen_by_joints_that_were_found() -> None:
    """A body with a joint at the origin is neither wide nor moving because of it."""
    still = track(2, range(T), 0.1, x=1)
    clip = run(gaps([(slice(0, T, 2), 3)], body=still), track(1, range(T), 0.3), stages=exact())
    assert rules(clip) == []
    assert clip.joints_MTV3[0, 0, 1, 0] == pytest.approx(-1 + 1)  # the body that moves most is centred, not the other
    assert clip.joints_MTV3[1, 0, 1, 0] == pytest.approx(1)
    unmarked = gaps([(slice(0, T, 2), 3)], body=still)._replace(tracked_FV=None)
    swapped = run(unmarked, track(1, range(T), 0.3), stages=exact())
    assert swapped.joints_MTV3[1, 0, 1, 0] == pytest.approx(-1)


def test_a_new_id_is_joined_by_the_joints_that_both_frames_have() -> None:
    before = gaps([(19, 3)], body=track(1, range(20), 0.3))
    after = track(2, range(20, T), 0.3)
    other = track(3, range(T), 0.2, x=2)
    clip = run(before, after, other, stages=exact())
    assert "join" in rules(clip)
    assert clip.tracked_MTV is not None
    assert int((~clip.tracked_MTV).sum()) == 1


def test_marks_of_a_body_without_gaps_follow_its_presence() -> None:
    clip = run(gaps([(0, 6)]), track(2, range(10, T), 0.1, x=1), stages=exact())
    assert clip.tracked_MTV is not None
    np.testing.assert_array_equal(clip.tracked_MTV[1].all(axis=1), np.arange(T) >= 10)
    assert run(gaps([]), stages=(CENTRE,)).tracked_MTV is None


@pytest.mark.parametrize("name", ["ctr", "pyskl"])
def test_published_recipes_reject_absent_joints(name: str) -> None:
    with pytest.raises(SkeletonError, match="takes every joint for present; use recipe exact") as caught:
        run(gaps([(0, 6)]), stages=recipe(name, True, LANDMARKS))
    assert caught.value.reason == "absent-joints"

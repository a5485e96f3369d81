"""Recipe exact: each rule on the edge cases, with 40 frames; A moves most, B less."""

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, Track
from preprocessing.stages import Clip, apply
from preprocessing.stages import exact as stages
from preprocessing.stages import run as run_stages
from preprocessing.stages.bodies import Scene
from tests.preprocessing.stages.examples import T, as_body, exact, track

A, B = track(1, range(T), 0.3), track(2, range(T), 0.1, x=1)


def run(*tracks: Track, frames: int = T) -> Clip:
    return apply("clip", RawClip(frames, tracks), exact())


def shown(clip: Clip) -> list[list[int]]:
    """The frames in which each slot is present."""
    return [np.flatnonzero(present_T).tolist() for present_T in clip.present_MT]


def rules(clip: Clip) -> list[tuple[int, str]]:
    return [(decision.body, decision.rule) for decision in clip.decisions]


EVERY = list(range(T))


def test_two_bodies_fill_two_slots_best_moving_first() -> None:
    clip = run(track(2, range(T), 0.1, x=1), track(1, range(T), 0.3))
    assert shown(clip) == [EVERY, EVERY]
    assert clip.joints_MTV3[1, 0, 1, 0] == pytest.approx(1.0)
    assert rules(clip) == []


def test_of_two_bodies_one_of_11_frames_is_dropped_and_one_of_12_is_kept() -> None:
    dropped = run(track(1, range(T), 0.3), track(2, range(11), 0.1, x=1))
    assert shown(dropped) == [EVERY]
    assert dropped.decisions == (("clip", 2, "length", 11.0, 11),)
    assert shown(run(track(1, range(T), 0.3), track(2, range(12), 0.1, x=1))) == [EVERY, list(range(12))]


def test_a_lone_body_is_never_dropped() -> None:
    assert shown(run(track(1, range(3), 0.3, wide=True))) == [[0, 1, 2]]


def test_a_body_wider_than_tall_is_a_ghost_even_if_it_moves_more() -> None:
    clip = run(track(1, range(T), 0.3), track(2, range(T), 0.9, x=1, wide=True))
    assert rules(clip) == [(2, "spread")]
    assert clip.decisions[0].value == 1.0


def test_where_all_would_be_dropped_the_best_moving_one_stays_and_is_flagged() -> None:
    wide = run(track(1, range(T), 0.3, wide=True), track(2, range(T), 0.1, x=1, wide=True))
    assert shown(wide) == [EVERY]
    assert rules(wide) == [(1, "spread-kept-best"), (2, "spread")]
    short = run(*(track(b, range(9 * b, 9 * b + 9), 0.1 * b, x=3 * b) for b in range(4)))
    assert rules(short) == [(0, "length"), (1, "length"), (2, "length"), (3, "length-kept-best")]


def test_frames_without_anybody_keep_their_place() -> None:
    seen = [*range(20), *range(25, 40)]
    clip = run(track(1, range(20), 0.3), track(2, range(25, 40), 0.3))
    assert shown(clip) == [seen]
    assert not clip.joints_MTV3[0, 20:25].any()


def test_a_body_whose_id_changes_for_one_frame_is_joined_and_keeps_its_time_base() -> None:
    clip = run(track(1, range(1), 0.3), track(2, range(1, T), 0.3))
    assert shown(clip) == [EVERY]
    assert rules(clip) == [(2, "join")]


def test_a_person_elsewhere_is_not_joined() -> None:
    clip = run(track(1, range(1), 0.3, x=2), track(2, range(1, T), 0.3))
    assert rules(clip) == [(1, "length")]


def test_a_gap_inside_a_slot_can_be_filled() -> None:
    ends = track(1, range(T), 0.3)
    keep = np.r_[0:10, 30:40]
    ends = Track(1, ends.frame_F[keep], ends.joints_FV3[keep])
    assert shown(run(ends, track(2, range(14, 28), 0.1, x=1))) == [[*range(10), *range(14, 28), *range(30, 40)]]


def test_a_third_body_before_the_second_shares_its_slot() -> None:
    clip = run(track(1, range(T), 0.3), track(2, range(22, 40), 0.2, x=1), track(3, range(18), 0.1, x=2))
    assert shown(clip) == [EVERY, [*range(18), *range(22, 40)]]


def test_a_third_body_at_the_same_time_is_left_out_and_recorded() -> None:
    clip = run(*(track(b, range(T), 0.4 - 0.1 * b, x=b) for b in range(3)))
    assert rules(clip) == [(2, "actors")]


def test_the_mid_spine_of_actor_1_is_the_origin_in_its_first_frame_and_absent_rows_stay_zero() -> None:
    clip = run(track(1, range(5, T), 0.3), track(2, range(T), 0.1, x=1))
    assert not clip.joints_MTV3[0, :5].any()
    assert np.allclose(clip.joints_MTV3[0, 5, 1], 0)


def test_the_motion_rule_drops_a_still_body_only_when_asked() -> None:
    still = track(2, range(T), 0.0, x=1)
    still.joints_FV3[...] = still.joints_FV3[:1] * (1, 0.1, 1) - (0, 0, 2)
    still.joints_FV3[..., 0] *= 0.1
    assert shown(apply("clip", RawClip(T, (A, still)), exact())) == [EVERY, EVERY]
    assert shown(apply("clip", RawClip(T, (A, still)), exact("motion"))) == [EVERY]
    _, decisions = run_stages("clip", RawClip(T, (A, still)), exact("motion"))
    assert [(decision.body, decision.rule, decision.threshold) for decision in decisions] == [(2, "motion", 0.089925)]


def turned(track: Track, angle: float, scale: float = 1.0) -> Track:
    """The body turned about the vertical by `angle` radians, and scaled."""
    c, s = np.cos(angle), np.sin(angle)
    turn_33 = scale * np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return track._replace(joints_FV3=(track.joints_FV3 @ turn_33.T).astype(np.float32))


def test_yaw_undoes_any_turn_about_the_vertical_and_nothing_else() -> None:
    plain = apply("clip", RawClip(T, (A, B)), exact("yaw"))
    for angle in (0.5, -2.0, 3.0):
        clip = apply("clip", RawClip(T, (turned(A, angle), turned(B, angle))), exact("yaw"))
        assert np.allclose(clip.joints_MTV3, plain.joints_MTV3, atol=1e-4)
    centred = apply("clip", RawClip(T, (A, B)), exact())
    assert np.allclose(plain.joints_MTV3[..., 1], centred.joints_MTV3[..., 1])
    across = plain.joints_MTV3[0, 0, 8] - plain.joints_MTV3[0, 0, 4]
    assert across[0] > 0
    assert across[2] == pytest.approx(0, abs=1e-6)


def test_size_scales_the_first_spine_to_half_a_metre() -> None:
    plain = apply("clip", RawClip(T, (A, B)), exact("size"))
    larger = apply("clip", RawClip(T, (turned(A, 0, 1.3), turned(B, 0, 1.3))), exact("size"))
    assert np.allclose(plain.joints_MTV3, larger.joints_MTV3, atol=1e-4)
    assert np.linalg.norm(plain.joints_MTV3[0, 3, 20] - plain.joints_MTV3[0, 3, 0]) == pytest.approx(0.5, abs=1e-4)


def test_a_body_without_heading_or_length_is_left_as_it_is_and_recorded() -> None:
    point = track(1, range(T), 0.3)
    point.joints_FV3[...] = (1, 2, 3)
    clip = apply("clip", RawClip(T, (point,)), exact("yaw", "size"))
    assert [decision.rule for decision in clip.decisions] == ["yaw-undefined", "size-undefined"]
    assert np.isfinite(clip.joints_MTV3).all()


@pytest.mark.parametrize(("gap", "joined"), [(1, True), (2, True), (3, False)])
def test_a_body_is_joined_to_one_that_vanished_at_most_two_frames_earlier(gap: int, joined: bool) -> None:
    early, late = track(1, range(15), 0.0), track(2, range(14 + gap, T), 0.0)
    _, effects = stages.join(Scene(T, (as_body(early), as_body(late)), 2), gap=2, distance=0.5)
    assert effects == ([(2, "join", 0.0, 0.5)] if joined else [])


@pytest.mark.parametrize(("x", "joined"), [(0.5, True), (0.51, False)])
def test_a_body_is_joined_at_the_mean_distance_of_its_joints(x: float, joined: bool) -> None:
    early, late = track(1, range(15), 0.0), track(2, range(15, T), 0.0, x=x)
    scene, effects = stages.join(Scene(T, (as_body(early), as_body(late)), 2), gap=2, distance=0.5)
    assert [body.body_id for body in scene.bodies] == ([1] if joined else [1, 2])
    assert bool(effects) == joined


def test_a_body_is_joined_to_the_nearest_of_two() -> None:
    far, near = track(1, range(15), 0.0), track(2, range(15), 0.0, x=0.3)
    late = track(3, range(15, T), 0.0, x=0.4)
    scene, effects = stages.join(Scene(T, tuple(as_body(one) for one in (far, near, late)), 3), gap=2, distance=0.5)
    assert [(body.body_id, len(body.frame_F)) for body in scene.bodies] == [(1, 15), (2, T)]
    assert effects == [(3, "join", pytest.approx(0.1, abs=1e-6), 0.5)]


def test_frames_wider_than_tall_lower_the_motion_of_a_body_but_never_raise_it() -> None:
    wide = track(1, range(T), 0.3)
    wide.joints_FV3[:10, :, 0] *= 100
    calm = stages.motion(wide.joints_FV3[10:])
    for before, after in ((1e9, calm), (0.001, 0.001)):
        scene, _ = stages.spread(Scene(T, (as_body(wide, before), as_body(B)), 2), width=0.8, share=0.69754)
        assert scene.bodies[0].motion == after


@pytest.mark.parametrize(("wide", "dropped"), [(27, False), (28, True)])
def test_a_body_is_a_ghost_if_it_is_wide_in_its_share_of_frames(wide: int, dropped: bool) -> None:
    ghost = track(2, range(T), 0.1)
    ghost.joints_FV3[:wide, :, 0] *= 100
    _, effects = stages.spread(Scene(T, (as_body(A), as_body(ghost)), 2), width=0.8, share=0.7)
    assert effects == ([(2, "spread", pytest.approx(0.7), 0.7)] if dropped else [])


@pytest.mark.parametrize(("moves", "threshold"), [(0.08, 0.09), (0.09, None), (2.0, None), (2.1, 2.0)])
def test_the_motion_rule_keeps_both_of_its_bounds(moves: float, threshold: float | None) -> None:
    bodies = as_body(A, 5.0), as_body(B, moves)
    scene, effects = stages.still(Scene(T, bodies, 2), least=0.09, most=2.0)
    assert effects == ([] if threshold is None else [(2, "motion", moves, threshold)])
    assert scene.bodies[0].body_id == 1, "the body that moves most stays"


def test_a_slot_keeps_the_motion_of_its_first_body() -> None:
    """Body 3 continues slot 1, and is compared with body 1; body 4 fits in no slot."""
    first, second = as_body(track(1, range(20), 0.1), 4), as_body(track(2, range(T), 0.1), 3)
    third, fourth = as_body(track(3, range(20, T), 0.1), 2), as_body(track(4, range(T), 0.1), 1)
    scene, effects = stages.actors(Scene(T, (first, second, third, fourth), 4), slots=2)
    assert [(body.body_id, body.motion) for body in scene.bodies] == [(1, 4), (2, 3)]
    assert effects == [(3, "actors-continued", 2, 4), (4, "actors", 1, 3)]


def test_one_outlier_frame_does_not_change_the_scale() -> None:
    one = track(1, range(T), 0.0)
    spine = float(np.linalg.norm(one.joints_FV3[0, 20] - one.joints_FV3[0, 0]))
    one.joints_FV3[7, 20] += 50
    scene, effects = stages.size(Scene(T, (as_body(one), as_body(B)), 2), top=20, bottom=0, metres=0.5)
    assert effects == []
    for body, before in zip(scene.bodies, (one, B), strict=True):
        np.testing.assert_allclose(body.joints_FV3, before.joints_FV3 * (0.5 / spine), rtol=1e-6)


@pytest.mark.parametrize(("width", "rule"), [(0.0099, ["yaw-undefined", "size-undefined"]), (0.0101, [])])
def test_a_heading_or_a_length_of_less_than_a_centimetre_is_undefined(width: float, rule: list[str]) -> None:
    one = track(1, range(T), 0.0)
    one.joints_FV3[...] = 0
    one.joints_FV3[:, 8, 0] = one.joints_FV3[:, 20, 1] = width
    _, decisions = run_stages("clip", RawClip(T, (one,)), exact("yaw", "size"))
    assert [decision.rule for decision in decisions] == rule

"""Each rule on the golden edge cases: 40 frames, A moves most, B less."""

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, Track
from preprocessing.stages import RECIPES, STAGES, Clip, Landmarks, apply, describe, recipe

EXACT = recipe("exact", kinect=True, landmarks=Landmarks(1, (4, 8), (20, 0)))
T = 40


def track(body: int, frames: range, swing: float, x: float = 0.0, wide: bool = False) -> Track:
    """A body at `x` that moves along z by `swing` metres over the clip."""
    frame_F = np.array(frames, np.int64)
    joint = np.arange(25)
    rest = np.stack([0.01 * joint * (20 if wide else 1), np.linspace(0, 1.7, 25), np.full(25, 3.0)], axis=1)
    move_F3 = np.stack([np.full(len(frame_F), x), np.zeros(len(frame_F)), swing * np.sin(frame_F)], axis=1)
    return Track(body, frame_F, (rest[None] + move_F3[:, None]).astype(np.float32))


def run(*tracks: Track, frames: int = T) -> Clip:
    return apply("clip", RawClip(frames, tracks), EXACT)


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


def test_bodies_chosen_by_others_are_only_centred() -> None:
    stages = recipe("exact", kinect=False, landmarks=Landmarks(3))
    assert describe("exact", stages) == {"name": "exact", "stages": [{"stage": "centre", "joint": 3}]}


def test_every_stage_of_every_recipe_exists() -> None:
    assert {stage.name for stages in RECIPES.values() for stage in stages} <= set(STAGES)

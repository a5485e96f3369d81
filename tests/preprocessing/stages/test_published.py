"""Recipes ctr and pyskl on the edge cases where they differ, and on real recordings whose result is known.

Each case states the result of CTR-GCN and of pyskl: frames, and rows with a body in each slot; or the reason they stop.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, SkeletonError, Track, parse
from preprocessing.stages import Stage, apply, ctr, published, pyskl, recipe, run
from preprocessing.stages.bodies import Body, Scene
from tests.preprocessing.stages.examples import LANDMARKS, T, as_body, track

Shape = tuple[int, ...]


def stages(name: str, until: str = "") -> tuple[Stage, ...]:
    """A recipe, or its stages up to the one named."""
    every = recipe(name, kinect=True, landmarks=LANDMARKS)
    last = [stage.name for stage in every].index(until) if until else len(every) - 1
    return every[: last + 1]


CTR = stages("ctr")


PYSKL_BUILD = stages("pyskl", "half")  # what its build script stores; what it does on loading comes after


def a(frames: Sequence[int] = range(T), wide: bool = False) -> Track:
    """The best-moving body."""
    return track(1, frames, 0.3, 1, wide)


def b(frames: Sequence[int] = range(T), wide: bool = False, swing: float = 0.1) -> Track:
    """A body that moves less."""
    return track(2, frames, swing, 2, wide)


def shape(tracks: Sequence[Track], by: tuple[Stage, ...], frames: int = T) -> Shape | str:
    """Return (frames, rows of slot 1, rows of slot 2), or the reason why there is no clip."""
    ordered = sorted(tracks, key=lambda track: (int(track.frame_F[0]), tracks.index(track)))
    try:
        present_MT = apply("clip", RawClip(frames, tuple(ordered)), by).present_MT
    except SkeletonError as error:
        return error.reason
    return (present_MT.shape[1], *present_MT.sum(axis=1).tolist())


C_EARLY = track(3, range(20), 0.05, x=3)


CASES: dict[str, tuple[list[Track], Shape | str, Shape | str]] = {
    "one body": ([a()], (40, 40), (40, 40)),
    "two bodies": ([a(), b()], (40, 40, 40), (40, 40, 40)),
    "the second for 11 frames": ([a(), b(range(11))], (40, 40), (40, 40)),
    "the second for 12 frames": ([a(), b(range(12))], (40, 40, 12), (40, 40, 12)),
    "the second wide, though it moves more": ([a(), b(wide=True, swing=0.9)], (40, 40), (40, 40)),
    "both wide": ([a(wide=True), b(wide=True)], (40, 40), "all-wide"),
    "four bodies of 9 frames": ([track(k, range(9 * k, 9 * k + 9), 0.1) for k in range(4)], "all-short", "all-short"),
    "frames 20 to 24 empty": ([a([*range(20), *range(25, 40)])], (35, 35), (35, 35)),
    "one leaves and returns around another": (
        [a([*range(10), *range(30, 40)]), b(range(10, 30))], (30, 20, 20), (30, 20, 20),
    ),
    "one after the other": ([a(range(20)), b(range(20, 40))], (40, 40, 0), (40, 40, 0)),
    "one after the other, both at frame 19": ([a(range(20)), b(range(19, 40))], (40, 40, 0), (40, 20, 21)),
    "a third before the second": ([a(), b(range(20, 40)), C_EARLY], (40, 40, 20), (40, 40, 20)),
    "the first comes late": ([a(range(5, 40)), b()], (40, 35, 40), (40, 40, 35)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_recipe_gives_the_result_of_its_original(case: str) -> None:
    tracks, expected_ctr, expected_pyskl = CASES[case]
    assert shape(tracks, CTR) == expected_ctr
    assert shape(tracks, PYSKL_BUILD) == expected_pyskl


def test_the_cases_tell_the_recipes_apart() -> None:
    exact = recipe("exact", kinect=True, landmarks=LANDMARKS)
    assert shape(CASES["frames 20 to 24 empty"][0], exact) == (40, 35)
    assert shape(CASES["one leaves and returns around another"][0], exact) == (40, 40)
    assert shape(CASES["both wide"][0], exact) == (40, 40)
    assert shape(CASES["a third before the second"][0], exact) == (40, 40, 40)


def test_of_two_wide_bodies_ctr_keeps_the_later_one() -> None:
    scene, decisions = run("clip", RawClip(T, tuple(CASES["both wide"][0])), CTR)
    assert [(decision.body, decision.rule) for decision in decisions] == [(1, "spread")]
    assert scene.bodies[0].body_id == 2


def test_ctr_overwrites_the_frame_that_two_bodies_share() -> None:
    early, late = CASES["one after the other, both at frame 19"][0]
    scene, _ = run("clip", RawClip(T, (early, late)), stages("ctr", "ctr-missing"))
    assert np.array_equal(scene.bodies[0].joints_FV3[19], late.joints_FV3[0])


def test_a_body_put_at_the_wrong_time_is_recorded_with_its_frames() -> None:
    tracks = CASES["one leaves and returns around another"][0]
    _, decisions = run("clip", RawClip(T, tuple(tracks)), CTR)
    assert ("compact-mistimed", 10.0) in [(decision.rule, decision.value) for decision in decisions]


def test_a_body_lost_behind_a_hull_is_recorded() -> None:
    tracks = [a(), b(range(20, 40)), C_EARLY]
    _, decisions = run("clip", RawClip(T, tuple(tracks)), CTR)
    assert [(decision.body, decision.rule) for decision in decisions] == [(3, "actors")]


def test_ctr_takes_the_origin_from_the_first_actor_even_when_it_comes_late() -> None:
    clip = apply("clip", RawClip(T, (b(), a(range(5, 40)))), CTR)
    assert np.array_equal(clip.joints_MTV3[0, 5, 1], np.zeros(3))
    assert not clip.joints_MTV3[0, :5].any()
    assert clip.joints_MTV3[1, 0].any()


def test_ctr_turns_the_all_zero_row_of_a_lone_body_into_minus_the_origin() -> None:
    one = a()
    one.joints_FV3[7] = 0
    clip = apply("clip", RawClip(T, (one,)), CTR)
    assert clip.present_MT[0, 7]
    assert np.array_equal(clip.joints_MTV3[0, 7], np.tile(-one.joints_FV3[0, 1], (25, 1)))


def test_ctr_takes_a_frame_for_missing_by_its_sum_not_by_its_values() -> None:
    one = a()
    one.joints_FV3[7] = 0
    one.joints_FV3[7, 3], one.joints_FV3[7, 4] = 1, -1
    assert shape([one, b(range(11))], CTR) == (39, 39)
    assert shape([one, b(range(11))], recipe("exact", kinect=True, landmarks=LANDMARKS)) == (40, 40)


def test_pyskl_stores_half_precision_and_no_other_change() -> None:
    clip = apply("clip", RawClip(T, (a(),)), PYSKL_BUILD)
    assert np.array_equal(clip.joints_MTV3[0], a().joints_FV3.astype(np.float16).astype(np.float32))


def test_pyskl_trims_the_ends_and_keeps_empty_frames_between() -> None:
    first, second = a(range(2, 38)), b(range(2, 38))
    for one in (first, second):
        one.joints_FV3[[0, 1, 10, 35]] = 0
        one.joints_FV3[35, 3, 0] = 0.0004  # the two together are below 1 mm
    assert shape([first, second], stages("pyskl", "pyskl-trim")) == (33, 36 - 3, 36 - 3)


def test_pyskl_drops_frames_without_the_person_seen_longer_on_loading() -> None:
    tracks = CASES["one after the other, both at frame 19"][0]
    assert shape(tracks, stages("pyskl")) == (21, 21, 1)


def test_pyskl_aligns_the_spine_to_z_then_the_shoulders_to_x() -> None:
    rng = np.random.default_rng(0)
    one = a()
    joints_FV3 = (one.joints_FV3 + rng.normal(0, 0.1, one.joints_FV3.shape)).astype(np.float32)
    (raw, *_), _ = run("clip", RawClip(T, (one._replace(joints_FV3=joints_FV3),)), PYSKL_BUILD)[0].bodies, None
    clip = apply("clip", RawClip(T, (one._replace(joints_FV3=joints_FV3),)), stages("pyskl"))
    first_V3 = clip.joints_MTV3[0, 0]
    across = first_V3[8] - first_V3[4]
    assert np.allclose(first_V3[1], 0, atol=1e-6)
    assert np.allclose(across / np.linalg.norm(across), [1, 0, 0], atol=1e-5)
    lengths = [np.linalg.norm(joints_V3 - joints_V3[1], axis=-1) for joints_V3 in (first_V3, raw.joints_FV3[0])]
    assert np.allclose(*lengths, atol=1e-5)


def test_ctr_reproduces_the_originals_arrays_to_the_last_bit(real_data: Path) -> None:
    with (
        np.load(real_data / "ctr_golden" / "raw_denoised_joints.npz") as denoised,
        np.load(real_data / "ctr_golden" / "NTU60_CS.npz") as final,
    ):
        final_NTD = final["x_test"]
        for index, name in enumerate(sorted(denoised.files)):
            raw = parse((real_data / "ntu_raw" / f"{name}.skeleton").read_bytes(), name)
            scene, _ = run(name, raw, stages("ctr", "ctr-missing"))
            flat_TD = np.zeros((scene.frames, 2, 75), np.float32)
            for slot, part in enumerate(scene.bodies):
                flat_TD[part.frame_F, slot] = part.joints_FV3.reshape(-1, 75)
            assert np.array_equal(flat_TD.reshape(-1, 150), denoised[name])
            clip_TD = apply(name, raw, CTR).joints_MTV3.transpose(1, 0, 2, 3).reshape(-1, 150)
            assert np.array_equal(clip_TD, final_NTD[index, : len(clip_TD)])
            assert not final_NTD[index, len(clip_TD) :].any()


def slots(*bodies: Body, overlap: int = 0) -> list[list[int]]:
    """IDs per slot, and the IDs that fit in none."""
    filled, lost = published.assign_slots(bodies, overlap)
    return [[body.body_id for body in part] for part in (*filled, lost)]


def test_a_body_that_ends_earlier_does_not_shrink_the_hull_of_its_slot() -> None:
    """Body 2 precedes body 1 in slot 1, whose hull then is frames 0 to 40; so body 3 must go to slot 2."""
    first, second = as_body(a(range(20, 40)), 3), as_body(b(range(10)), 2)
    assert slots(first, second, as_body(track(3, range(25, 35), 0.1), 1)) == [[1, 2], [3], []]


def test_the_hull_of_the_second_slot_starts_at_the_first_frame() -> None:
    bodies = [as_body(a(), 3), as_body(b(range(30, 40)), 2), as_body(track(3, range(5, 10), 0.1), 1)]
    assert slots(*bodies) == [[1], [2], [3]]


@pytest.mark.parametrize(("overlap", "expected"), [(0, [[1], [2], []]), (1, [[1, 2], [], []])])
def test_one_common_frame_is_an_overlap_for_pyskl_only(overlap: int, expected: list[list[int]]) -> None:
    assert slots(as_body(a(range(20)), 2), as_body(b(range(19, 40)), 1), overlap=overlap) == expected


def test_of_equal_motion_the_first_body_takes_the_first_slot() -> None:
    assert slots(as_body(a(), 1), as_body(b(), 1)) == [[1], [2], []]


@pytest.mark.parametrize(("longer", "order"), [(0, [1, 2]), (1, [2, 1])])
def test_pyskl_puts_the_body_seen_longer_first_and_keeps_the_order_on_ties(longer: int, order: list[int]) -> None:
    first, second = a(range(5, 25)), b(range(10, 30 + longer))
    scene, effects = pyskl.normalize(Scene(T, (as_body(first), as_body(second)), 2), joint=1, align=0)
    assert [body.body_id for body in scene.bodies] == order
    assert [rule for _, rule, _, _ in effects] == (["main-swap", "main-frames"] if longer else ["main-frames"])
    assert scene.frames == 20 + longer


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [(0.0, 0.0011, [2, 1]), (0.0009, 0.0011, [2, 1]), (0.0, 0.0009, [1, 2]), (0.0011, 0.0012, [1, 2])],
)
def test_pyskl_swaps_the_slots_if_only_the_second_comes_first(first: float, second: float, order: list[int]) -> None:
    """Joint 1 of the first frame decides; a body is absent where its coordinates sum to less than 1 mm."""
    bodies = as_body(a()), as_body(b())
    for body, value in zip(bodies, (first, second), strict=True):
        body.joints_FV3[0, 1] = (value, 0, 0)
    scene, effects = pyskl.trim(Scene(T, bodies, 2))
    assert [body.body_id for body in scene.bodies] == order
    assert effects == ([(2, "swap", pytest.approx(first), pyskl.BLANK)] if order == [2, 1] else [])


def test_frames_wider_than_tall_do_not_count_for_the_motion_of_a_body() -> None:
    """Share of wide frames, and the smaller of the two motions; the motion of the other frames, by hand."""
    one = a()
    one.joints_FV3[:10, :, 0] *= 100
    calm = float(one.joints_FV3[10:].reshape(-1, 3).var(axis=0).sum())
    share, kept = published.without_wide_frames(as_body(one, 1e9), 0.8)
    assert (share, kept.motion) == (0.25, pytest.approx(calm, rel=1e-6))
    assert published.without_wide_frames(as_body(one, 0.001), 0.8)[1].motion == 0.001


@pytest.mark.parametrize(("wide", "dropped"), [(27, False), (28, True)])
def test_both_recipes_drop_a_body_that_is_wide_in_its_share_of_frames(wide: int, dropped: bool) -> None:
    one = b()
    one.joints_FV3[:wide, :, 0] *= 100
    for spread in (ctr.spread, pyskl.spread):
        scene, effects = spread(Scene(T, (as_body(one), as_body(a())), 2), width=0.8, share=0.7)
        assert [body.body_id for body in scene.bodies] == ([1] if dropped else [2, 1])
        assert effects == ([(2, "spread", wide / 40, 0.7)] if dropped else [])


def test_time_gaps_close_and_mistimed_frames_are_counted() -> None:
    """Frames 0 to 9 are empty; body 2 has a gap of 5 frames in which body 1 is seen."""
    scene, effects = published.compact(
        Scene(T, (as_body(a(range(10, 40))), as_body(b([*range(10, 20), *range(25, 40)]))), 2)
    )
    assert scene.frames == 30
    assert [body.frame_F.tolist() for body in scene.bodies] == [list(range(30)), list(range(25))]
    assert effects == [(2, "compact-mistimed", 15.0, 0.0), (1, "compact-empty-frames", 10.0, 0.0)]
    assert scene.bodies[0].motion == published.motion32(a(range(10, 40)).joints_FV3)

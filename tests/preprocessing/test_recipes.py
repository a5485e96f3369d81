"""The two published recipes on the edge cases where they differ, and on real recordings whose result is known.

Each case says what CTR-GCN and pyskl make of it: frames, and rows with anybody in each slot; or the reason they stop.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, SkeletonError, Track, parse
from preprocessing.stages import Landmarks, Stage, apply, recipe, run

MARKS = Landmarks(1, (4, 8), (20, 0))
T = 40
Shape = tuple[int, ...]


def stages(name: str, until: str = "") -> tuple[Stage, ...]:
    """A recipe, or its stages up to the one named."""
    every = recipe(name, kinect=True, landmarks=MARKS)
    last = [stage.name for stage in every].index(until) if until else len(every) - 1
    return every[: last + 1]


CTR = stages("ctr")
PYSKL_BUILD = stages("pyskl", "half")  # what its build script stores; what it does on loading comes after


def body(number: int, frames: Sequence[int], swing: float, wide: bool = False) -> Track:
    """A body one metre beside the previous number's, moving along z by `swing` metres."""
    frame_F = np.array(frames, np.int64)
    joint = np.arange(25)
    rest_V3 = np.stack([0.01 * joint * (20 if wide else 1), np.linspace(0.1, 1.7, 25), np.full(25, 3.0)], axis=1)
    move_F3 = np.stack([np.full(len(frame_F), number), np.zeros(len(frame_F)), swing * np.sin(frame_F)], axis=1)
    return Track(number, frame_F, (rest_V3 + move_F3[:, None]).astype(np.float32))


def a(frames: Sequence[int] = range(T), wide: bool = False) -> Track:
    """The best-moving body."""
    return body(1, frames, 0.3, wide)


def b(frames: Sequence[int] = range(T), wide: bool = False, swing: float = 0.1) -> Track:
    """A body that moves less."""
    return body(2, frames, swing, wide)


def shape(tracks: Sequence[Track], by: tuple[Stage, ...], frames: int = T) -> Shape | str:
    """(frames, rows of slot 1, rows of slot 2), or why there is no clip."""
    ordered = sorted(tracks, key=lambda track: (int(track.frame_F[0]), tracks.index(track)))
    try:
        present_MT = apply("clip", RawClip(frames, tuple(ordered)), by).present_MT
    except SkeletonError as error:
        return error.reason
    return (present_MT.shape[1], *present_MT.sum(axis=1).tolist())


C_EARLY = body(3, range(20), 0.05)
CASES: dict[str, tuple[list[Track], Shape | str, Shape | str]] = {
    "one body": ([a()], (40, 40), (40, 40)),
    "two bodies": ([a(), b()], (40, 40, 40), (40, 40, 40)),
    "the second for 11 frames": ([a(), b(range(11))], (40, 40), (40, 40)),
    "the second for 12 frames": ([a(), b(range(12))], (40, 40, 12), (40, 40, 12)),
    "the second wide, though it moves more": ([a(), b(wide=True, swing=0.9)], (40, 40), (40, 40)),
    "both wide": ([a(wide=True), b(wide=True)], (40, 40), "all-wide"),
    "four bodies of 9 frames": ([body(k, range(9 * k, 9 * k + 9), 0.1) for k in range(4)], "all-short", "all-short"),
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
def test_ctr_makes_of_each_case_what_the_original_does(case: str) -> None:
    tracks, expected, _ = CASES[case]
    assert shape(tracks, CTR) == expected


@pytest.mark.parametrize("case", CASES)
def test_pyskl_makes_of_each_case_what_the_original_does(case: str) -> None:
    tracks, _, expected = CASES[case]
    assert shape(tracks, PYSKL_BUILD) == expected


def test_the_cases_tell_the_recipes_apart() -> None:
    exact = recipe("exact", kinect=True, landmarks=MARKS)
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
    track = a()
    track.joints_FV3[7] = 0
    clip = apply("clip", RawClip(T, (track,)), CTR)
    assert clip.present_MT[0, 7]
    assert np.array_equal(clip.joints_MTV3[0, 7], np.tile(-track.joints_FV3[0, 1], (25, 1)))


def test_ctr_takes_a_frame_for_missing_by_its_sum_not_by_its_values() -> None:
    track = a()
    track.joints_FV3[7] = 0
    track.joints_FV3[7, 3], track.joints_FV3[7, 4] = 1, -1
    assert shape([track, b(range(11))], CTR) == (39, 39)
    assert shape([track, b(range(11))], recipe("exact", kinect=True, landmarks=MARKS)) == (40, 40)


def test_pyskl_stores_half_precision_and_no_other_change() -> None:
    clip = apply("clip", RawClip(T, (a(),)), PYSKL_BUILD)
    assert np.array_equal(clip.joints_MTV3[0], a().joints_FV3.astype(np.float16).astype(np.float32))


def test_pyskl_trims_the_ends_and_keeps_empty_frames_between() -> None:
    first, second = a(range(2, 38)), b(range(2, 38))
    for track in (first, second):
        track.joints_FV3[[0, 1, 10, 35]] = 0
    assert shape([first, second], stages("pyskl", "pyskl-trim")) == (33, 36 - 3, 36 - 3)


def test_pyskl_drops_frames_without_the_person_seen_longer_on_loading() -> None:
    tracks = CASES["one after the other, both at frame 19"][0]
    assert shape(tracks, stages("pyskl")) == (21, 21, 1)


def test_pyskl_aligns_the_spine_to_z_then_the_shoulders_to_x() -> None:
    rng = np.random.default_rng(0)
    track = a()
    joints_FV3 = (track.joints_FV3 + rng.normal(0, 0.1, track.joints_FV3.shape)).astype(np.float32)
    (raw, *_), _ = run("clip", RawClip(T, (track._replace(joints_FV3=joints_FV3),)), PYSKL_BUILD)[0].bodies, None
    clip = apply("clip", RawClip(T, (track._replace(joints_FV3=joints_FV3),)), stages("pyskl"))
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crt", True, MARKS), "did you mean ctr"),
        (("ctr", False, MARKS), "raw Kinect recordings"),
        (("exact", True, MARKS, ["yawn"]), "choose from motion, yaw, size"),
        (("ctr", True, MARKS, ["yaw"]), "kept as published"),
        (("exact", False, MARKS, ["motion"]), "already selected"),
        (("exact", False, Landmarks(0), ["size"]), "spine"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        recipe(*arguments)
    assert "\n" not in str(caught.value)


def optional(*add: str) -> tuple[Stage, ...]:
    """Recipe exact with optional stages."""
    return recipe("exact", True, MARKS, add)


def test_the_motion_rule_drops_a_still_body_only_when_asked() -> None:
    still = b(swing=0.0)
    still.joints_FV3[...] = still.joints_FV3[:1] * (1, 0.1, 1) - (0, 0, 2)
    still.joints_FV3[..., 0] *= 0.1
    assert shape([a(), still], optional()) == (40, 40, 40)
    assert shape([a(), still], optional("motion")) == (40, 40)
    _, decisions = run("clip", RawClip(T, (a(), still)), optional("motion"))
    assert [(decision.body, decision.rule, decision.threshold) for decision in decisions] == [(2, "motion", 0.089925)]


def turned(track: Track, angle: float, scale: float = 1.0) -> Track:
    """The body turned about the vertical by `angle` radians, and scaled."""
    c, s = np.cos(angle), np.sin(angle)
    turn_33 = scale * np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return track._replace(joints_FV3=(track.joints_FV3 @ turn_33.T).astype(np.float32))


def test_yaw_undoes_any_turn_about_the_vertical_and_nothing_else() -> None:
    plain = apply("clip", RawClip(T, (a(), b())), optional("yaw"))
    for angle in (0.5, -2.0, 3.0):
        clip = apply("clip", RawClip(T, (turned(a(), angle), turned(b(), angle))), optional("yaw"))
        assert np.allclose(clip.joints_MTV3, plain.joints_MTV3, atol=1e-4)
    centred = apply("clip", RawClip(T, (a(), b())), optional())
    assert np.allclose(plain.joints_MTV3[..., 1], centred.joints_MTV3[..., 1])
    across = plain.joints_MTV3[0, 0, 8] - plain.joints_MTV3[0, 0, 4]
    assert across[0] > 0
    assert across[2] == pytest.approx(0, abs=1e-6)


def test_size_makes_the_first_spine_half_a_metre_whoever_it_is() -> None:
    plain = apply("clip", RawClip(T, (a(), b())), optional("size"))
    larger = apply("clip", RawClip(T, (turned(a(), 0, 1.3), turned(b(), 0, 1.3))), optional("size"))
    assert np.allclose(plain.joints_MTV3, larger.joints_MTV3, atol=1e-4)
    assert np.linalg.norm(plain.joints_MTV3[0, 3, 20] - plain.joints_MTV3[0, 3, 0]) == pytest.approx(0.5, abs=1e-4)


def test_a_body_without_heading_or_length_is_left_as_it_is_and_recorded() -> None:
    point = a()
    point.joints_FV3[...] = (1, 2, 3)
    clip = apply("clip", RawClip(T, (point,)), optional("yaw", "size"))
    assert [decision.rule for decision in clip.decisions] == ["yaw-undefined", "size-undefined"]
    assert np.isfinite(clip.joints_MTV3).all()

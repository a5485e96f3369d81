"""people.py: one recording per person or per pair."""

import numpy as np
import pytest

from pipeline.people import split
from pipeline.recordings import Recording
from preprocessing.skeleton import RawClip, Track
from preprocessing.stages import Stage

STAGES = (Stage("join", {}), Stage("people", {"slots": 2, "by_score": 0}), Stage("centre", {"joint": 0}))


def track(body: int, first: int, last: int, place: float = 0.0) -> Track:
    """A body that moves from frame `first` to before `last`."""
    joints = np.random.default_rng(body).normal(size=(last - first, 4, 3)).astype(np.float32) + np.float32(place)
    return Track(body, np.arange(first, last), joints)


def recording(*tracks: Track) -> Recording:
    return Recording("party", RawClip(20, tracks), STAGES[1:])


def test_each_person_is_cleaned_alone() -> None:
    people = list(split(recording(track(7, 0, 20, 5.0), track(3, 5, 20), track(9, 0, 4)), "person"))
    assert [one.part for one in people] == ["[person 1]", "[person 2]", "[person 3]"]
    for one, frames in zip(people, (20, 4, 15), strict=True):
        clip = one.clip("x")
        assert clip.present_MT.sum() == frames
        assert not clip.joints_MTV3[0, np.flatnonzero(clip.present_MT[0])[0], 0].any(), (
            "centred on the person's own joint"
        )


def test_pairs_share_a_frame() -> None:
    pairs = list(split(recording(track(1, 0, 10), track(2, 5, 20), track(3, 12, 20)), "pair"))
    assert [one.part for one in pairs] == ["[people 1+2]", "[people 2+3]"]
    assert pairs[0].clip("x").present_MT.sum(axis=1).tolist() == [10, 15]


def test_a_recording_as_a_whole_is_unchanged_and_one_without_pairs_says_so() -> None:
    one = recording(track(1, 0, 20))
    assert list(split(one, "clip")) == [one]
    (alone,) = split(one, "pair")
    assert (alone.raw, alone.fault) == (None, "party: no people share a frame")
    broken = Recording("party", None, fault="unreadable")
    assert list(split(broken, "person")) == [broken]


def test_stages_before_the_choice_see_everybody() -> None:
    """A copied second body is dropped first."""
    first = track(1, 0, 20)
    whole = recording(first, first._replace(body_id=2))._replace(stages=(Stage("copied", {}), *STAGES[1:]))
    assert [one.part for one in split(whole, "person")] == ["[person 1]"]


def test_a_clip_that_a_stage_rejects_says_why() -> None:
    bad = track(1, 0, 20)
    bad.joints_FV3[3, 2] = np.inf
    (one,) = split(recording(bad), "person")
    assert one.raw is None
    assert "joint 2 of body 1 in frame 3 is NaN or infinite" in one.fault
    with pytest.raises(ValueError, match="joint 2 of body 1"):
        one.clip("x")


def test_a_part_is_trimmed_to_the_frames_of_its_people_where_times_are_not_needed() -> None:
    crowd = recording(track(1, 4, 10), track(2, 8, 20))
    alone = [one.clip("x") for one in split(crowd, "person", trim=True)]
    assert [clip.present_MT.shape[1] for clip in alone] == [6, 12]
    assert all(clip.present_MT.all() for clip in alone)
    (pair,) = split(crowd, "pair", trim=True)
    assert pair.clip("x").present_MT.sum(axis=1).tolist() == [6, 12]
    assert pair.clip("x").present_MT.shape[1] == 16
    assert {one.clip("x").present_MT.shape[1] for one in split(crowd, "person")} == {20}

"""Work units: where they end, and what becomes of each clip."""

from collections.abc import Sequence

import numpy as np
import pytest

from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.sources import Entry
from preprocessing.work_units import BYTES, CLIPS, Quarantined, Work, cut, make


def read(place: object, name: str) -> RawClip:
    """Raise the place if it is an error, else return it."""
    if isinstance(place, SkeletonError):
        raise place
    assert isinstance(place, RawClip)
    return place


def entries(sizes: Sequence[int]) -> list[Entry]:
    return [Entry(f"clip{i}", "", size, 0, read, None) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([1] * CLIPS, [CLIPS]),
        ([1] * (2 * CLIPS + 1), [CLIPS, CLIPS, 1]),
        ([BYTES // 2] * 4, [2, 2]),
        ([BYTES // 2 + 1] * 3, [1, 1, 1]),
        ([2 * BYTES, 1, 1], [1, 2]),
        ([], []),
    ],
)
def test_a_unit_ends_at_its_number_of_clips_or_bytes(sizes: list[int], lengths: list[int]) -> None:
    tasks = list(cut(entries(sizes)))
    assert [len(part) for _, part in tasks] == lengths
    assert [first for first, _ in tasks] == [sum(lengths[:i]) for i in range(len(lengths))]


def test_a_resumed_build_goes_on_with_the_same_units() -> None:
    every = entries([1] * (2 * CLIPS + 5))
    assert list(cut(every, CLIPS)) == list(cut(every))[1:]


def test_each_clip_is_kept_skipped_or_quarantined() -> None:
    joints = np.arange(2 * 25 * 3, dtype=np.float32).reshape(2, 25, 3)
    places = [
        RawClip(3, (Track(7, np.array([0, 2]), joints),)),
        RawClip(2, ()),
        SkeletonError("bad", 5, "truncated"),
        RawClip(1, (Track(7, np.array([0]), joints[:1]),)),
    ]
    names = ["good", "empty", "bad", "missing"]
    task = (40, [Entry(name, "", 10, 0, read, place) for name, place in zip(names, places, strict=True)])
    unit = make(Work((), frozenset({"missing"})), task)
    assert (unit.first, unit.entries, unit.read) == (40, 4, 40)
    assert unit.shapes == [(40, 3, 1)]
    assert unit.skipped == [("empty", "no-body"), ("missing", "known-missing")]
    message = "bad:5: truncated: the file ends before the announced frames do"
    assert unit.quarantined == [Quarantined("bad", 5, "truncated", message)]
    rows = np.frombuffer(unit.joints, np.float32).reshape(3, 25, 3)
    assert np.array_equal(rows[[0, 2]], joints)
    assert not rows[1].any()
    assert np.frombuffer(unit.present, bool).tolist() == [True, False, True]

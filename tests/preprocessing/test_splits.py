"""Train, val and test never share a clip, and val never shares a person with train where that can be."""

import numpy as np
import pytest

from preprocessing import ntu
from preprocessing.ntu import VAL_SUBJECTS
from preprocessing.splits import Columns, CountError, Protocols, array_splits, coverage, hold_out, ntu_splits


def columns(subjects: int, views: int, labels: int = 2) -> Columns:
    """One clip of every subject, view and label."""
    grid = np.stack(np.meshgrid(np.arange(1, subjects + 1), np.arange(1, views + 1), np.arange(labels)), -1).reshape(
        -1, 3
    )
    return Columns(grid[:, 2], grid[:, 0], grid[:, 1])


def whole_and_disjoint(splits: Protocols, count: int) -> bool:
    return all(
        np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(count))
        for parts in splits.parts.values()
    )


def test_ntu_has_its_three_protocols_and_xsub_is_the_default() -> None:
    named = columns(40, 3)
    setup = np.arange(len(named.label_N)) % 17 + 1
    splits = ntu_splits(setup, named)
    assert list(splits.parts) == ["xsub", "xview", "xset"]
    assert splits.default == "xsub"
    assert whole_and_disjoint(splits, len(setup))
    for parts in splits.parts.values():
        held = set(named.subject_N[parts["val"]])
        assert held <= VAL_SUBJECTS
        assert not held & set(named.subject_N[parts["train"]])


def test_a_protocol_without_a_test_part_is_left_out() -> None:
    named = columns(4, 1)
    splits = ntu_splits(np.full(len(named.label_N), 2), named)
    assert list(splits.parts) == ["xsub"]


def test_recordings_of_test_subjects_alone_still_have_a_test_part() -> None:
    named = Columns(np.zeros(3, int), np.array([3, 3, 6]), np.array([1, 1, 1]))
    parts = ntu_splits(np.array([1, 1, 1]), named).parts["xsub"]
    assert [len(parts[part]) for part in ("train", "val", "test")] == [0, 0, 3]


def test_views_test_on_the_highest_and_hold_subjects_out_of_train() -> None:
    named = columns(10, 3)
    splits = array_splits({"view": named.view_N, "subject": named.subject_N}, named)
    assert list(splits.parts) == ["xview", "xsub"]
    assert splits.default == "xview"
    xview = splits.parts["xview"]
    assert set(named.view_N[xview["test"]]) == {3}
    assert sorted(set(named.subject_N[xview["val"]])) == [5, 10]
    assert set(named.subject_N[splits.parts["xsub"]["test"]]) == {2, 4, 6, 8, 10}


def test_views_are_held_out_where_subjects_do_not_vary() -> None:
    named = columns(1, 4)
    splits = array_splits({"view": named.view_N}, named)
    assert set(named.view_N[splits.parts["xview"]["val"]]) == {3}
    assert "view 3" in splits.rules["xview"]


def test_folds_are_protocols_of_their_own_and_say_how_val_was_chosen() -> None:
    named = Columns(np.arange(50) % 2, np.zeros(50, int), np.zeros(50, int))
    splits = array_splits({"fold": np.arange(50) % 5 + 1}, named)
    assert list(splits.parts) == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    assert whole_and_disjoint(splits, 50)
    assert len(splits.parts["fold1"]["val"]) == 8
    assert set(named.label_N[splits.parts["fold1"]["val"]]) == {0, 1}
    assert "neither subjects nor views vary" in splits.rules["fold1"]


def test_a_given_split_is_taken_as_it_is() -> None:
    named = columns(4, 1)
    given = np.array(["train", "train", "train", "train", "val", "val", "test", "test"])
    splits = array_splits({"split": given, "subject": named.subject_N}, named)
    assert splits.default == "split"
    assert splits.parts["split"]["val"].tolist() == [4, 5]
    assert splits.rules["split"] == "val as given"


def test_without_any_column_every_fifth_clip_of_a_class_is_tested() -> None:
    named = Columns(np.arange(50) % 2, np.zeros(50, int), np.zeros(50, int))
    splits = array_splits({}, named)
    assert splits.default == "holdout"
    assert len(splits.parts["holdout"]["test"]) == 10
    assert whole_and_disjoint(splits, 50)


def whole_benchmark(classes: int) -> dict[str, np.ndarray]:
    """Columns with the published number of clips and the published counts of every protocol."""
    count = ntu.PUBLISHED_CLIPS[classes]
    trains = {p: counts[0] for (k, p), counts in ntu.PUBLISHED_SPLITS.items() if k == classes}
    position = np.arange(count)
    return {
        "label": position % classes,
        "subject": np.where(position < trains["xsub"], np.where(position % 2, 1, 8), 3),
        "camera": np.where(position < trains.get("xview", 0), 2, 1),
        "setup": np.where(position < trains.get("xset", 0), 2, 1),
        "replication": np.ones(count, int),
    }


def described(columns_: dict[str, np.ndarray], kept: np.ndarray) -> str:
    named = Columns(*(columns_[key][kept] for key in ("label", "subject", "camera")))
    return coverage(columns_, kept, ntu_splits(columns_["setup"][kept], named))


@pytest.mark.parametrize("classes", [60, 120])
def test_a_whole_benchmark_has_the_published_counts(classes: int) -> None:
    every = whole_benchmark(classes)
    text = described(every, np.arange(ntu.PUBLISHED_CLIPS[classes]))
    assert text.startswith(f"the whole of NTU RGB+D {classes}")


@pytest.mark.parametrize(("classes", "column", "value"), [(60, "subject", 3), (60, "camera", 1), (120, "setup", 1)])
def test_a_whole_benchmark_with_one_misnamed_clip_is_rejected(classes: int, column: str, value: int) -> None:
    every = whole_benchmark(classes)
    every[column][0] = value
    with pytest.raises(CountError, match="published are"):
        described(every, np.arange(ntu.PUBLISHED_CLIPS[classes]))


def test_a_part_of_a_benchmark_is_described_as_such() -> None:
    every = whole_benchmark(60)
    assert described(every, np.arange(500)).startswith(
        "500 of the 56578 clips of NTU RGB+D 60 (60 actions, 1 setup, 1 cam"
    )


@pytest.mark.parametrize(("label", "classes"), [(59, 60), (60, 120)])
def test_a_clip_of_action_61_belongs_to_the_larger_benchmark(label: int, classes: int) -> None:
    every = {key: values[:3] for key, values in whole_benchmark(60).items()} | {"label": np.array([0, 1, label])}
    assert f"clips of NTU RGB+D {classes} (3 actions" in described(every, np.arange(3))


def of_subjects(subjects: list[int]) -> Columns:
    """One clip per subject, all of one class and one view."""
    return Columns(np.zeros(len(subjects), int), np.array(subjects), np.zeros(len(subjects), int))


@pytest.mark.parametrize(
    ("subjects", "val"),
    [
        ([8, 8, 1, 2, 4], [8]),
        ([8, 8, 1, 9], [8]),  # half of the clips
        ([8, 8, 8, 8, 9], [9]),  # preferred subject 8 has 80 % of the clips
        ([1, 2, 4, 5, 9], [9]),  # no preferred subject
    ],
)
def test_preferred_subjects_are_held_out_unless_they_are_most_of_train(subjects: list[int], val: list[int]) -> None:
    columns_ = of_subjects(subjects)
    held, rule = hold_out(np.arange(len(subjects)), columns_, preferred=(8,))
    assert sorted(set(columns_.subject_N[held])) == val
    assert rule == f"subject {val[0]} held out of train"


def test_about_a_fifth_of_the_subjects_is_held_out_evenly() -> None:
    columns_ = of_subjects(list(range(1, 14)))
    held, _ = hold_out(np.arange(13), columns_)
    assert columns_.subject_N[held].tolist() == [4, 8, 13]


def test_without_subjects_and_views_every_fifth_clip_of_a_class_is_held_out() -> None:
    columns_ = Columns(np.arange(20) % 2, np.zeros(20, int), np.zeros(20, int))
    held, _ = hold_out(np.arange(20), columns_)
    assert held.tolist() == [8, 9, 18, 19]

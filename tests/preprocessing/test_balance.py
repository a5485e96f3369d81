"""balance.py: lines about classes and subjects that cannot be learned or tested."""

import numpy as np

from preprocessing.balance import balance_notes

NAMES = ["sit", "run", "jump", "fall"]


def notes(label: list[int], subject: list[int], train: list[int], val: list[int], test: list[int]) -> list[str]:
    parts = {name: np.array(index, np.int64) for name, index in (("train", train), ("val", val), ("test", test))}
    return balance_notes(np.array(label), np.array(subject), parts, NAMES, "xsub")


def test_a_balanced_set_needs_no_line() -> None:
    assert notes([0, 1, 0, 1, 0, 1], [1, 1, 2, 2, 3, 3], [0, 1], [2, 3], [4, 5]) == []


def test_one_class_one_subject_and_a_class_with_one_clip_are_named() -> None:
    assert notes([1, 1, 1], [1, 2, 2], [0], [1], [2]) == [
        "all clips have one class (run): there is nothing to tell apart"
    ]
    (one,) = notes([0, 1, 0, 1], [4, 4, 4, 4], [0, 1], [], [2, 3])
    assert one == "all clips have one subject (4): no accuracy for other people can be measured"
    assert notes([0, 1, 0, 1], [0, 0, 0, 0], [0, 1], [], [2, 3]) == []  # subjects are not known
    lines = notes([0, 0, 1, 2, 2], [1, 1, 1, 2, 2], [0, 2, 3], [], [1, 4])
    assert lines[0] == "1 class (run) with one clip: it cannot be both trained on and tested"


def test_classes_that_a_part_lacks_are_named() -> None:
    lines = notes([0, 1, 2, 3, 0, 1, 2, 3], [1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 2], [], [4, 5, 7, 6, 3])
    assert lines == ["train of xsub lacks 1 class (fall) of 4: the network cannot learn them"]
    lines = notes([0, 1, 2, 3, 0, 1, 2, 3], [1, 1, 1, 1, 2, 2, 2, 2], [0, 1, 2, 3, 5, 6, 7], [], [4])
    assert lines == ["test of xsub lacks 3 classes (run, jump, fall) of 4: their accuracy is not measured"]
    assert notes([0, 1, 0, 1], [1, 1, 2, 2], [0, 1, 2, 3], [], []) == ["test of xsub has no clips"]


def test_labels_that_leave_numbers_out_or_count_from_one_are_named() -> None:
    parts = {"train": np.array([0, 1]), "val": np.zeros(0, np.int64), "test": np.array([2, 3])}
    subject_N = np.array([1, 1, 2, 2])
    (line,) = balance_notes(np.array([1, 2, 1, 2]), subject_N, parts, ["sit", "run", "jump"], "xsub")
    assert line.startswith("no clip has label 0 (sit) and every other class has clips")
    names = [f"class {k}" for k in range(10)]
    (line,) = balance_notes(np.array([0, 9, 0, 9]), subject_N, parts, names, "xsub")
    assert line == "8 classes (class 1, class 2, class 3, ...) of 10 without clips: labels leave numbers out"
    assert balance_notes(np.array([0, 2, 0, 2]), subject_N, parts, NAMES, "xsub") == [], "named classes may lack clips"

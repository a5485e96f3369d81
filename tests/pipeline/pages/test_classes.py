"""Confusion matrix, accuracy per class and the clips that are played, by hand."""

from pathlib import Path

import numpy as np

from pipeline.pages import classes
from pipeline.pages.finished import FinishedRun
from preprocessing.hdf5 import open_file

NAMES = ["wave", "<jump>", "sit"]
COUNTS = np.array([[3, 1, 0], [0, 0, 2], [0, 0, 5]])


def test_pairs_and_accuracies() -> None:
    """The most frequent confusion and the lowest class stand first."""
    pairs = classes.confused_pairs(COUNTS, NAMES)
    assert pairs == [("<jump>", "sit", 2, 2), ("wave", "<jump>", 1, 4)]
    assert [row.cells for row in classes.accuracy_table(COUNTS, NAMES).rows] == [
        ("<jump>", 0.0, 2), ("wave", 0.75, 4), ("sit", 1.0, 5),
    ]  # fmt: skip
    assert [row.cells for row in classes.pairs_table(pairs).rows] == [tuple(pair) for pair in pairs]
    many = np.ones((5, 5), dtype=np.int64)
    assert len(classes.confused_pairs(many, list("abcde"))) == classes.WORST


def test_the_figure_leaves_out_classes_that_do_not_occur() -> None:
    """Neither labels nor predictions; a class that is only predicted stays, its row empty."""
    counts = np.array([[3, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    figure = classes.confusion_figure("run", counts, ["walk", "sit", "<b>", "fall"])
    assert figure.names == ("walk", "<b>", "fall")
    assert figure.shares == ((0.75, 0, 0.25), (0, 1, 0), (0, 0, 0))


def test_the_section_is_about_the_most_accurate_run_with_a_matrix(data_file: Path) -> None:
    """A pair is played side by side, each by the clip of median length of its class."""
    file = open_file(data_file)

    def run(name: str, top1: float, confusion: list[list[int]] | None) -> FinishedRun:
        return FinishedRun(name, {"eval": "test", "test": {"top1": top1}, "confusion": confusion}, [], None)

    counts = np.eye(4, dtype=np.int64) * 5
    counts[1, 2] = 3
    section = classes.class_section([run("a", 0.5, counts.tolist()), run("b", 0.6, [[0]]), run("c", 0.9, None)], file)
    assert section is not None
    assert section.title == "The classes: “b” on test clips"
    section = classes.class_section([run("a", 0.5, counts.tolist())], file)
    assert section is not None
    ((data, caption),) = section.played
    assert caption == "swing 1, and swing 2, which it is mistaken for in 3 of 8 clips"
    (clip,) = data["clips"]
    assert [panel["title"] for panel in clip["panels"]] == ["swing 1", "swing 2"]
    lengths = [sorted(file.clips["frames"][file.clips["label"] == k]) for k in (1, 2)]
    assert clip["frames"] == max(values[len(values) // 2] for values in lengths)
    assert classes.class_section([run("c", 0.9, None)], file) is None

"""Classes of the most accurate run: confusion matrix, accuracy per class, and the pairs that it confuses most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.pages.figures import Heat
from pipeline.pages.finished import FinishedRun
from preprocessing import pages
from preprocessing.hdf5 import SkeletonFile
from preprocessing.pages import Row, Table, number, text
from preprocessing.pages.player import PlayerData, file_clip, player_data

WORST = 10  # pairs of classes in the table
PLAYED = 3  # pairs of classes with a moving clip of each class


class Pair(NamedTuple):
    """A class and one that its clips are mistaken for."""

    label: str
    predicted: str
    times: int
    clips: int
    """Clips of the class."""


@dataclass(frozen=True)
class ClassSection:
    """Figures, tables and clips of the page's section on classes."""

    title: str
    confusion: Heat
    accuracies: Table
    pairs: Table
    played: list[tuple[PlayerData, str]]


def class_section(runs: Sequence[FinishedRun], file: SkeletonFile) -> ClassSection | None:
    """Return the classes of the most accurate run; None if no run has a confusion matrix (runs of old versions)."""
    known = [run for run in runs if run.summary.get("confusion")]
    if not known:
        return None
    best, names = max(known, key=lambda run: run.eval_top1), list(file.class_names)
    counts_KK = np.array(best.summary["confusion"])
    pairs = confused_pairs(counts_KK, names)
    with_clips = {names[label] for label in np.unique(file.clips["label"])}
    played = [
        (
            player_data(file, [file_clip(file, typical(file, names.index(name)), name) for name in (pair[0], pair[1])]),
            f"{pair.label}, and {pair.predicted}, which it is mistaken for in {pair.times} of {pair.clips} clips",
        )
        for pair in pairs
        if pair.predicted in with_clips
    ]
    return ClassSection(
        f"The classes: “{best.name}” on {best.eval_split} clips",
        confusion_figure(best.name, counts_KK, names),
        accuracy_table(counts_KK, names),
        pairs_table(pairs),
        [(side_by_side(data), caption) for data, caption in played[:PLAYED]],
    )


def side_by_side(data: PlayerData) -> PlayerData:
    """Return two clips as one clip of two panels, which move together."""
    first, second = data["clips"]
    merged = first | {
        "name": f"{first['action']} and {second['action']}",
        "action": "",
        "frames": max(first["frames"], second["frames"]),
        "panels": first["panels"] + second["panels"],
    }
    return data | {"clips": [merged]}  # type: ignore[return-value, list-item]


def confused_pairs(counts_KK: np.ndarray, names: list[str]) -> list[Pair]:
    """Return the most frequent confusions, at most `WORST`; rows of `counts_KK` are labels, columns predictions."""
    wrong_KK = counts_KK * (1 - np.eye(len(counts_KK), dtype=np.int64))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:WORST]
    places = [divmod(int(place), len(counts_KK)) for place in order]
    return [
        Pair(names[label], names[predicted], int(wrong_KK[label, predicted]), int(counts_KK[label].sum()))
        for label, predicted in places
        if wrong_KK[label, predicted]
    ]


def confusion_figure(run: str, counts_KK: np.ndarray, names: list[str]) -> Heat:
    """Draw the share of each class's clips (row) that got each prediction (column).

    Classes without clips and without predictions are left out: a part of a data set has few of its classes.
    """
    there_C = np.flatnonzero(counts_KK.sum(axis=0) + counts_KK.sum(axis=1))
    counts_CC = counts_KK[np.ix_(there_C, there_C)]
    share_CC = counts_CC / counts_CC.sum(axis=1, keepdims=True).clip(min=1)
    return Heat(
        f"Predictions of “{run}” by class (% of the clips of a class)",
        f"Confusion matrix of {len(there_C)} classes; the tables below name the most frequent confusions.",
        tuple(names[k] for k in there_C),
        tuple(tuple(float(share) for share in row) for row in share_CC),
    )


def accuracy_table(counts_KK: np.ndarray, names: list[str]) -> Table:
    """Return the accuracy of each class, the lowest first."""
    clips_K, right_K = counts_KK.sum(axis=1), np.diag(counts_KK)
    order = sorted(np.flatnonzero(clips_K), key=lambda k: (right_K[k] / clips_K[k], k))
    rows = tuple(Row((names[k], float(right_K[k] / clips_K[k]), int(clips_K[k]))) for k in order)
    return Table(
        "Accuracy per class, the lowest first", (text("class"), pages.percent("accuracy"), number("clips")), rows
    )


def pairs_table(pairs: list[Pair]) -> Table:
    """Return the most frequent confusions."""
    columns = (text("class"), text("mistaken for"), number("times"), number("of", "clips"))
    return Table("Most frequent confusions", columns, tuple(Row(tuple(pair)) for pair in pairs))


def typical(file: SkeletonFile, label: int) -> int:
    """Return the clip of a class with the median length."""
    of_class = np.flatnonzero(np.asarray(file.clips["label"]) == label)
    order = np.argsort(file.clips["frames"][of_class], kind="stable")
    return int(of_class[order[len(order) // 2]])

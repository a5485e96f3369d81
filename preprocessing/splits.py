"""Split protocols of NTU and of array sources; val is held out of train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from preprocessing import exits
from preprocessing.ntu import PUBLISHED_CLIPS, PUBLISHED_SPLITS, VAL_SUBJECTS, is_train

VAL_SHARE = 0.2


class Protocols(NamedTuple):
    """Protocol -> part -> positions (int64, ascending); the default protocol; the rule that chose each val."""

    parts: dict[str, dict[str, np.ndarray]]
    default: str
    rules: dict[str, str]


class Columns(NamedTuple):
    """Columns that a split may depend on, (N,) int64 each."""

    label_N: np.ndarray
    subject_N: np.ndarray
    view_N: np.ndarray


def hold_out(train_N: np.ndarray, columns: Columns, preferred: Iterable[int] = ()) -> tuple[np.ndarray, str]:
    """Choose val out of the training clips: subjects if they vary, else views, else every fifth clip of each class.

    Args:
        train_N: Positions of the training clips.
        columns: Columns of all clips.
        preferred: Subjects to hold out if that takes at most half of the training clips.

    Returns:
        Positions of val, and the rule in words.
    """
    for word, values_N in (("subject", columns.subject_N), ("view", columns.view_N)):
        present = np.unique(values_N[train_N])
        if len(present) < 2:
            continue
        chosen = np.intersect1d(present, sorted(preferred)) if word == "subject" else present[:0]
        # In a small set most clips may be of the preferred subjects; then val would empty train.
        if not 0 < np.isin(values_N[train_N], chosen).mean() <= 0.5:
            chosen = _spaced(present)
        return train_N[np.isin(values_N[train_N], chosen)], f"{word} {', '.join(map(str, chosen))} held out of train"
    ordered = train_N[np.argsort(columns.label_N[train_N], kind="stable")]
    return np.sort(ordered[4::5]), "every fifth clip of each class held out of train: neither subjects nor views vary"


def _spaced(present: np.ndarray) -> np.ndarray:
    """Choose about a fifth of the values: at least one, evenly spaced, the last included."""
    count = max(1, round(VAL_SHARE * len(present)))
    return present[[(k + 1) * len(present) // count - 1 for k in range(count)]]


def divide(train: np.ndarray, test: np.ndarray, val: np.ndarray) -> dict[str, np.ndarray]:
    """Return the three parts, with `val` removed from `train`."""
    return {
        "train": np.setdiff1d(train, val).astype(np.int64),
        "val": val.astype(np.int64),
        "test": test.astype(np.int64),
    }


def ntu_splits(setup_N: np.ndarray, columns: Columns) -> Protocols:
    """Split by xsub, xview and xset; omit a protocol without train or test clips, unless none would be left."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    rules: dict[str, str] = {}
    for protocol in ("xsub", "xview", "xset"):
        train_B = is_train(protocol, setup_N, columns.view_N, columns.subject_N)
        train, test = np.flatnonzero(train_B), np.flatnonzero(~train_B)
        if len(train) and len(test):
            val, rules[protocol] = hold_out(train, columns, VAL_SUBJECTS)
            parts[protocol] = divide(train, test, val)
    if not parts:
        train_B = is_train("xsub", setup_N, columns.view_N, columns.subject_N)
        train = np.flatnonzero(train_B)
        val, rules["xsub"] = hold_out(train, columns, VAL_SUBJECTS)
        parts["xsub"] = divide(train, np.flatnonzero(~train_B), val)
    return Protocols(parts, next(iter(parts)), rules)


def array_splits(given: Mapping[str, np.ndarray], columns: Columns) -> Protocols:
    """Make protocols of the columns `split`, `fold`, `view`, `subject`; the first present is the default."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    rules: dict[str, str] = {}

    def add(protocol: str, test_B: np.ndarray, val_B: np.ndarray | None = None) -> None:
        train, test = np.flatnonzero(~test_B), np.flatnonzero(test_B)
        if val_B is not None and val_B.any():
            val, rules[protocol] = np.flatnonzero(val_B), "val as given"
        else:
            val, rules[protocol] = hold_out(train, columns)
        parts[protocol] = divide(train, test, val)

    if "split" in given:
        add("split", given["split"] == "test", given["split"] == "val")
    if "fold" in given:
        for fold in np.unique(given["fold"]):
            add(f"fold{fold}", given["fold"] == fold)
    if "view" in given and len(np.unique(given["view"])) > 1:
        add("xview", given["view"] == given["view"].max())
    if "subject" in given and len(np.unique(given["subject"] % 2)) > 1:
        add("xsub", given["subject"] % 2 == 0)
    if not parts:
        # Without any column the test set is still reproducible: every fifth clip of each class.
        every = np.arange(len(columns.label_N))
        constant = Columns(columns.label_N, np.zeros_like(every), np.zeros_like(every))
        add("holdout", np.isin(every, hold_out(every, constant)[0]))
    return Protocols(parts, next(iter(parts)), rules)


def named_splits(protocols: Mapping[str, np.ndarray], columns: Columns) -> Protocols:
    """Make protocols that a source names: each has (N,) train, val, test, or empty for a clip that is in no part.

    A source that names no test calls it val, as many published splits do; then val is held out of train.
    """
    parts: dict[str, dict[str, np.ndarray]] = {}
    rules: dict[str, str] = {}
    for protocol, part_N in protocols.items():
        train, val, test = (np.flatnonzero(part_N == part) for part in ("train", "val", "test"))
        if not len(test):
            val, test = test, val
        if len(val):
            rules[protocol] = "val as given"
        else:
            val, rules[protocol] = hold_out(train, columns)
        parts[protocol] = divide(train, test, val)
    return Protocols(parts, next(iter(parts)), rules)


class CountError(ValueError):
    """As many clips as a whole benchmark, but other split sizes; the message has one line."""

    exit_code = exits.INTEGRITY


def coverage(columns: Mapping[str, np.ndarray], kept: np.ndarray, splits: Protocols) -> str:
    """Describe which part of which NTU benchmark the clips at positions `kept` are.

    Raises:
        CountError: A whole benchmark differs from the published split sizes (val counts as train).
    """
    label_N, setup_N = columns["label"][kept], columns["setup"][kept]
    classes = 60 if len(kept) == 0 or label_N.max() < 60 else 120
    whole = PUBLISHED_CLIPS[classes]
    name = f"NTU RGB+D {classes}"
    if len(kept) != whole:
        people = ", ".join(
            f"{len(np.unique(values))} {word}{'s' * (len(np.unique(values)) != 1)}"
            for word, values in (
                ("action", label_N),
                ("setup", setup_N),
                ("camera", columns["camera"][kept]),
                ("subject", columns["subject"][kept]),
            )
        )
        return f"{len(kept)} of the {whole} clips of {name} ({people}): not comparable with published accuracies"
    for protocol, expected in ((p, counts) for (k, p), counts in PUBLISHED_SPLITS.items() if k == classes):
        parts = splits.parts.get(protocol, {"train": (), "val": (), "test": ()})
        counts = (len(parts["train"]) + len(parts["val"]), len(parts["test"]))
        if counts != expected:
            raise CountError(
                f"{name}, {protocol}: {counts[0]} train and {counts[1]} test clips, published are {expected[0]} and"
                f" {expected[1]}; a file has the name of another: download the data set again"
            )
    return f"the whole of {name}: {whole} clips, and its split counts are the published ones"

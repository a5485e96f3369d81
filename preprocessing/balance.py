"""Say what classes and subjects of a set of clips cannot be learned or tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NAMED = 3  # classes in a line


def balance_notes(
    label_N: np.ndarray,
    subject_N: np.ndarray,
    parts: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    protocol: str,
) -> list[str]:
    """Return one line per fact that limits what clips can show; none for a data set without such limits.

    Args:
        label_N: Class of each clip.
        subject_N: Subject of each clip; 0 for all where subjects are not known.
        parts: train, val and test of the protocol: positions of clips.
        class_names: Names of the classes K.
        protocol: Name of the protocol.
    """
    count_K = np.bincount(label_N, minlength=len(class_names))
    present_K = np.flatnonzero(count_K)
    notes = []
    empty_K = np.flatnonzero(count_K == 0)
    if empty_K.tolist() == [0] and len(present_K) > 1:
        notes.append(
            f"no clip has label 0 ({class_names[0]}) and every other class has clips: labels count from 0, so subtract"
            " 1 if these count from 1"
        )
    elif len(empty_K) and all(name == f"class {k}" for k, name in enumerate(class_names)):
        notes.append(f"{_listed(empty_K, class_names)} of {len(class_names)} without clips: labels leave numbers out")
    if len(present_K) == 1:
        notes.append(f"all clips have one class ({class_names[present_K[0]]}): there is nothing to tell apart")
    if len(np.unique(subject_N)) == 1 and subject_N[0] != 0:
        notes.append(f"all clips have one subject ({subject_N[0]}): no accuracy for other people can be measured")
    if len(alone := np.flatnonzero(count_K == 1)):
        notes.append(f"{_listed(alone, class_names)} with one clip: it cannot be both trained on and tested")
    for part in ("train", "val", "test"):
        index = parts.get(part, np.zeros(0, np.int64))
        lacking = np.setdiff1d(present_K, label_N[index])
        if len(index) and len(lacking) and len(present_K) > 1:
            why = "the network cannot learn them" if part == "train" else "their accuracy is not measured"
            notes.append(f"{part} of {protocol} lacks {_listed(lacking, class_names)} of {len(present_K)}: {why}")
        elif not len(index) and part != "val":
            notes.append(f"{part} of {protocol} has no clips")
    return notes


def _listed(classes: np.ndarray, names: Sequence[str]) -> str:
    shown = ", ".join(str(names[k]) for k in classes[:NAMED])
    more = ", ..." if len(classes) > NAMED else ""
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'} ({shown}{more})"

"""Compare the shares of absent joints between the splits of a run: a shift moves what the network sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.gaps import absent_shares
from preprocessing.hdf5 import SkeletonFile

LEAST = 0.02  # of all joints: a smaller difference of the shares is not worth a sentence
ERRORS = 3.0  # standard errors over clips that the difference must exceed


def absence(file: SkeletonFile, train_N: np.ndarray, eval_N: np.ndarray, split: str) -> dict[str, Any]:
    """Return the mean shares of absent joints, and a finding if they differ; empty for a file without gaps.

    Args:
        file: The data file.
        train_N: Positions of the training clips.
        eval_N: Positions of the evaluated clips.
        split: Name of the evaluated split.

    Returns:
        `train` and `eval` (shares), `split`, `shifted`, and `text`, a sentence.
    """
    if file.tracked_RV is None or len(train_N) < 2 or len(eval_N) < 2:
        return {}
    share_N = absent_shares(file)
    train, evaluated = share_N[train_N], share_N[eval_N]
    difference = float(evaluated.mean() - train.mean())
    error = float(np.sqrt(train.var(ddof=1) / len(train) + evaluated.var(ddof=1) / len(evaluated)))
    shifted = abs(difference) > max(LEAST, ERRORS * error)
    text = f"Absent joints: {train.mean():.1%} in train, {evaluated.mean():.1%} in {split}."
    if shifted:
        text += (
            " The share shifts between the splits. Fill gaps alike (preprocessing.build --fill), or train with "
            "--augment.joint-drop."
        )
    return {
        "train": float(train.mean()), "eval": float(evaluated.mean()), "split": split, "shifted": shifted, "text": text,
    }  # fmt: skip

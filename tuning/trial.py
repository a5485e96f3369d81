"""One trial: one training in this process, one record an epoch with the accuracy that the search judges by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.config import from_dict
from pipeline.train import fit, setup
from tuning.space import nested


def run(settings: dict[str, Any], threads: int) -> Iterator[dict[str, float]]:
    """Train with flat settings (`norm.kind`, ...); yield epoch, train accuracy, A to D and gaps after each epoch.

    C is the accuracy on held-out training subjects (`val`): the search never sees the test split.
    """
    torch.set_num_threads(threads)
    config = from_dict(nested(settings))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips, splits, state = setup(config, device)
    if not len(splits.val):
        raise ValueError(f"{config.data}: protocol {splits.protocol!r} holds out no val clips, which a search needs")
    for record in fit(config, clips, splits, state):
        accuracies, gap = record["accuracies"], record["gap"]
        yield {
            "epoch": record["epoch"],
            "val": accuracies["C"],
            "train": record["train"]["top1"],
            **accuracies,
            "normalization_gap": gap["normalization"],
            "generalization_gap": gap["generalization"],
        }

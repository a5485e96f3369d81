"""Splits of a protocol: which clips a run trains on, makes choices on and is tested on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from preprocessing.arguments import suggestion
from preprocessing.hdf5 import SkeletonFile


class Splits(NamedTuple):
    """Index tensors of one protocol; `train` holds no clip of `val`."""

    protocol: str
    train: Tensor
    val: Tensor
    test: Tensor

    def fit(self, which: str) -> Tensor:
        """Return the clips to train on: train, or train+val."""
        return torch.cat([self.train, self.val]).sort().values if which == "train+val" else self.train

    def held_out(self, fit: str) -> Tensor:
        """Return the clips that choices are made on; none if the run trains on them."""
        return self.val if fit == "train" else self.val[:0]


def splits_of(file: SkeletonFile, protocol: str = "", fit: str = "train") -> Splits:
    """Return the splits of a protocol; an empty name stands for the file's default.

    Raises:
        ValueError: The file has no such protocol, or the protocol no clips to train on.
    """
    protocol = protocol or file.default_protocol
    if protocol not in file.splits:
        known = ", ".join(sorted(file.splits)) or "none"
        raise ValueError(f"{file.path} has no protocol {protocol!r}; it has {known}{suggestion(protocol, file.splits)}")
    parts = {
        name: torch.from_numpy(np.asarray(file.splits[protocol].get(name, []), dtype=np.int64))
        for name in ("train", "val", "test")
    }
    splits = Splits(protocol, **parts)
    if not len(splits.fit(fit)):
        raise ValueError(f"{file.path}: protocol {protocol!r} has no training clips (test: {len(splits.test)} clips)")
    return splits

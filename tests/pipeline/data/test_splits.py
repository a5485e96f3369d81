"""splits.py: what a run trains on, and what it holds out."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipeline.data.splits import Splits, splits_of
from preprocessing.hdf5 import open_file


def test_validation_clips_are_not_trained_on_unless_asked(data_file: Path) -> None:
    """train and val are disjoint by subject; train+val joins them and holds nothing out."""
    file = open_file(data_file)
    splits, subject = splits_of(file), file.clips["subject"]
    assert not set(subject[splits.fit("train")]) & set(subject[splits.held_out("train")])
    assert len(splits.fit("train+val")) == len(splits.train) + len(splits.val)
    assert len(splits.held_out("train+val")) == 0


def test_an_unknown_protocol_names_those_of_the_file(data_file: Path) -> None:
    """The remedy is in the message."""
    with pytest.raises(ValueError, match="no protocol 'xview'; it has xsub"):
        splits_of(open_file(data_file), "xview")


def test_a_protocol_without_training_clips_is_refused(data_file: Path) -> None:
    """With the number of test clips, which tells a file of evaluation clips alone."""
    file = dataclasses.replace(open_file(data_file), splits={"xsub": {"val": [1], "test": [0, 2]}})
    with pytest.raises(ValueError, match=r"protocol 'xsub' has no training clips \(test: 2 clips\)"):
        splits_of(file)
    assert splits_of(file, fit="train+val").fit("train+val").tolist() == [1]


def test_train_and_val_together_are_sorted() -> None:
    """So that the order of an epoch does not depend on how they were held apart."""
    splits = Splits("p", train=torch.tensor([1, 4]), val=torch.tensor([0, 3]), test=torch.tensor([2]))
    assert splits.fit("train+val").tolist() == [0, 1, 3, 4]
    assert splits.held_out("train").tolist() == [0, 3]

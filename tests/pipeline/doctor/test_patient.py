"""patient.py: the doctor sees a run's clips in the order that the training saw them."""

from pathlib import Path

import pytest
import torch

from pipeline.data.clips import Clips
from pipeline.doctor.patient import ClipBatches
from preprocessing.hdf5 import open_file


@pytest.mark.parametrize("order", ["subject", "class"])
def test_sorted_batches_are_sorted_as_in_training(data_file: Path, order: str) -> None:
    """By subject or by class; every clip occurs once."""
    file = open_file(data_file)
    clips = Clips(file, torch.device("cpu"))
    keys = torch.as_tensor(file.clips["subject" if order == "subject" else "label"].astype("int64"))
    seen_N = torch.cat([batch.index_N for batch in ClipBatches(clips, torch.arange(60), 16, 8, order)])
    assert keys[seen_N].tolist() == sorted(keys[:60].tolist())
    assert seen_N.sort().values.tolist() == list(range(60))

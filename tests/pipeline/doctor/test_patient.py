"""patient: the batches of a run in its training order, and what is known of its training."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import Config
from pipeline.data.clips import Clips
from pipeline.doctor.patient import NEXT_TRAINING, ClipBatches, divisions, evaluated_on, history
from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.run_folder import Run
from preprocessing.hdf5 import open_file

CPU = torch.device("cpu")


@pytest.mark.parametrize("order", ["subject", "class"])
def test_sorted_batches_are_sorted_as_in_training(data_file: Path, order: str) -> None:
    """By subject or by class; every clip occurs once."""
    file = open_file(data_file)
    clips = Clips(file, CPU)
    keys = torch.as_tensor(file.clips["subject" if order == "subject" else "label"].astype("int64"))
    seen_N = torch.cat([batch.index_N for batch in ClipBatches(clips, torch.arange(60), 16, 8, order)])
    assert keys[seen_N].tolist() == sorted(keys[:60].tolist())
    assert seen_N.sort().values.tolist() == list(range(60))


def test_clips_are_divided_by_what_differs(data_file: Path) -> None:
    """The numbers of a batch's own clips; a division into one group is left out."""
    file = open_file(data_file)
    batch = Clips(file, CPU).batch(torch.tensor([5, 40, 2]), 16)
    found = {name: number(batch).tolist() for name, number in divisions(file).items()}
    tables = {name: np.asarray(file.clips[name]) for name in ("camera", "subject")}
    assert found == {name: table[[5, 40, 2]].tolist() for name, table in tables.items() if len(set(table)) > 1}
    assert "subject" in found


def test_steps_are_counted_with_the_last_batch_of_each_epoch(runs: Path) -> None:
    """49 clips in batches of at most 8; only averaged weights have a source."""
    run = Run(runs / "bn-loop", CPU)
    assert run.checkpoint is not None
    known = history(run, run.network(), 49)
    assert known.steps == 7 * run.checkpoint.kept_epoch
    assert known.source == {}


def test_held_out_clips_are_evaluated_where_there_are_any(runs: Path) -> None:
    """Or those that were asked for."""
    run = Run(runs / "bn-loop", CPU)
    assert min(len(run.splits.val), len(run.splits.test)) > 0
    for asked, name, expected in (("auto", "val", run.splits.val), ("test", "test", run.splits.test)):
        split, index_N = evaluated_on(run, asked)
        assert split == name
        assert torch.equal(index_N, expected)


def test_advice_for_training_speaks_of_existing_settings_and_checks() -> None:
    """Every option of pipeline.train that it names exists, and the body loop's first advice is masked."""
    assert set(NEXT_TRAINING) <= set(CHECKS | REST)
    assert NEXT_TRAINING["reuse"].startswith("--norm.persons masked")
    for words in NEXT_TRAINING.values():
        for part, name in re.findall(r"--(norm|input|train|model)\.([a-z-]+)", words):
            assert hasattr(getattr(Config(Path("x"), Path("y")), part), name.replace("-", "_")), (part, name)

"""trial.py: one training, one record an epoch, judged on held-out training subjects."""

from pathlib import Path
from typing import Any

import pytest

from preprocessing.hdf5 import open_file
from tests.conftest import write_file
from tuning import trial


def settings(data: Path, out: Path, **more: Any) -> dict[str, Any]:
    """A short training in flat names."""
    flat = {"data": str(data), "out": str(out), "input.frames": 16, "train.epochs": 2, "train.eval_every": 1}
    return flat | {"train.batch_size": 16} | more


def test_one_record_an_epoch_and_val_is_c(data_file: Path, tmp_path: Path) -> None:
    """Fractions, gaps by definition."""
    records = list(trial.run(settings(data_file, tmp_path), threads=1))
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record["val"] == record["C"]
        assert record["normalization_gap"] == record["B"] - record["A"]
        assert 0 <= record["val"] <= 1


def test_the_test_split_decides_nothing(data_file: Path, tmp_path: Path) -> None:
    """Another test split, the same records."""
    shuffled = write_file(tmp_path / "other.h5", test_subjects=(2,))
    assert len(open_file(shuffled).splits["xsub"]["test"]) < len(open_file(data_file).splits["xsub"]["test"])
    one, two = (list(trial.run(settings(path, tmp_path), threads=1)) for path in (data_file, shuffled))
    assert one == two


def test_a_search_without_held_out_clips_is_refused(tmp_path: Path) -> None:
    """There is nothing to judge by."""
    file = write_file(tmp_path / "a.h5", val_subjects=())
    with pytest.raises(ValueError, match="holds out no val clips"):
        next(trial.run(settings(file, tmp_path), threads=1))

"""origin.py: a run finds its data where it is by now, and takes no other file for it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import origin, train
from preprocessing.hdf5 import open_file
from tests.conftest import write_file


@pytest.fixture
def work(runs: Path, data_file: Path, tmp_path: Path) -> Path:
    """A folder with the data, and in it a run that was trained on them."""
    (tmp_path / "work").mkdir()
    shutil.copyfile(data_file, tmp_path / "work" / "data.h5")
    run = tmp_path / "work" / "runs" / "none"
    shutil.copytree(runs / "none", run)
    settings = json.loads((run / "config.json").read_text())
    settings |= {"data": str(tmp_path / "work" / "data.h5"), "out": str(run)}
    (run / "config.json").write_text(json.dumps(settings))
    return tmp_path / "work"


def test_a_run_names_whole_paths(runs: Path, data_file: Path) -> None:
    """However its command named them."""
    assert origin.place(runs / "none") == data_file.resolve()
    stored = json.loads((runs / "none" / "config.json").read_text())
    assert Path(stored["out"]) == (runs / "none").resolve()


def test_moved_together_they_find_each_other(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder, through a link as well; the network is loaded with its clips."""
    moved = work.rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(moved / "runs")
    monkeypatch.chdir(moved / "runs" / "none")
    for run in (moved / "runs" / "none", Path(), tmp_path / "link" / "none"):
        assert origin.data_file(run).path == moved / "data.h5"
    config, clips, _, _ = train.load_run(Path(), torch.device("cpu"))
    assert config.data == moved / "data.h5"
    assert len(clips.names) == len(open_file(moved / "data.h5").clips["frames"])


def test_a_file_that_is_still_there_is_taken_before_one_beside(work: Path, tmp_path: Path) -> None:
    """A copy of both trains on where the settings say."""
    shutil.copytree(work, tmp_path / "copy")
    assert origin.place(tmp_path / "copy" / "runs" / "none") == work / "data.h5"


def test_data_that_are_gone_are_named_with_what_to_do(work: Path) -> None:
    """Both remedies hold: the file comes back, or the settings learn its new place."""
    run = work / "runs" / "none"
    (work / "data.h5").rename(work / "other.h5")
    with pytest.raises(ValueError, match=r"data.h5, which is not there; put it back, or write its new place into"):
        origin.data_file(run)
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(work / "other.h5")}))
    assert origin.data_file(run).path == work / "other.h5"


def test_another_file_in_its_place_is_refused(work: Path) -> None:
    """Its content counts, not its name."""
    os.replace(write_file(work / "new.h5", seed=1), work / "data.h5")
    with pytest.raises(ValueError, match=r"data.h5 is not the file that .*none was trained on; put that one back"):
        origin.data_file(work / "runs" / "none")

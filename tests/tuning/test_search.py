"""search.py as a user runs it: real Ray on loopback, real W&B offline runs, a trial that fails."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuning.space import SPACE

TRIALS = 3


def search(data: Path, out: Path, *more: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """The command, from another folder than the project's."""
    command = [sys.executable, "-m", "tuning.search", "--data", str(data), "--out", str(out), *more]
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=data.parent, env=os.environ | {"PYTHONPATH": root}
    )


@pytest.fixture(scope="module")
def study(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    out = tmp_path_factory.mktemp("search") / "study"
    result = search(data_file, out, "--trials", str(TRIALS), "--epochs", "2", "--frames", "16")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{TRIALS} of {TRIALS} trials finished" in result.stdout
    return out


def test_every_trial_is_a_row_best_first(study: Path) -> None:
    """All searched settings, all four accuracies, in JSON and in CSV."""
    rows = json.loads((study / "results.json").read_text())["trials"]
    assert len(rows) == len(list(csv.DictReader((study / "results.csv").open()))) == TRIALS
    assert [row["val"] for row in rows] == sorted((row["val"] for row in rows), reverse=True)
    for row in rows:
        assert set(SPACE) | set("ABCD") | {"val", "train", "normalization_gap"} <= set(row)
        assert row["error"] == ""


def test_every_trial_is_a_complete_wandb_run(study: Path) -> None:
    """Fed by the driver, so that no early stop can lose a record; read back with W&B's own reader."""
    files = sorted((study / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == TRIALS
    wandb = Path(sys.executable).with_name("wandb")
    for file in files:
        read = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, timeout=60)
        assert '"exit"' in read.stdout.lower() or "exitRecord" in read.stdout, read.stdout[-500:] + read.stderr
        assert "normalization_gap" in read.stdout


def test_settings_without_a_trial_that_finishes_end_with_3(data_file: Path, tmp_path: Path) -> None:
    """Every trial fails: recorded with its cause, no traceback of ours."""
    result = search(data_file, tmp_path / "study", "--trials", "1", "--epochs", "1", "--frames", "4", "--wandb", "off")
    assert result.returncode == 3, result.stdout + result.stderr
    (row,) = json.loads((tmp_path / "study" / "results.json").read_text())["trials"]
    assert "cnn halves frames" in row["error"]
    assert row["val"] is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--trials", "0"], "--trials 0 must be 1 or more"),
        (["--wandb", "maybe"], "maybe"),
        (["--trails", "3"], "--trials"),
    ],
)
def test_a_mistake_gets_words_and_no_traceback(data_file: Path, tmp_path: Path, more: list[str], words: str) -> None:
    """Exit 2."""
    result = search(data_file, tmp_path / "study", *more, timeout=60)
    assert result.returncode == 2
    assert words in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    """Before Ray is started."""
    result = search(tmp_path / "none.h5", tmp_path / "study", timeout=60)
    assert result.returncode == 2
    assert "build it with python -m preprocessing.build" in result.stderr

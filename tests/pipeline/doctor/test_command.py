"""python -m pipeline.doctor: doctor.json of run folders, and messages in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("run", "causes"), [("bn-loop", ["reuse"]), ("bn-masked", [])])
def test_the_command_on_a_run(runs: Path, run: str, causes: list[str]) -> None:
    """The question's network: the loop is blamed, the masked twin is not."""
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / run), "--split", "test"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    diagnosis = json.loads((runs / run / "doctor.json").read_text())
    assert [cause["check"] for cause in diagnosis["causes"]] == causes
    assert diagnosis["judged"] == "test"
    assert set(diagnosis) >= {"verdict", "accuracies", "gap", "causes", "unexplained"}


def test_the_command_rejects_a_folder_that_is_not_a_run_folder(tmp_path: Path) -> None:
    """Exit 2 and the remedy."""
    command = [sys.executable, "-m", "pipeline.doctor", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "is not a run folder" in result.stderr


def test_the_command_names_the_data_file_that_is_missing(runs: Path, tmp_path: Path) -> None:
    """One line with the file that the run was trained on, no traceback."""
    run = shutil.copytree(runs / "bn-loop", tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone.h5")}))
    command = [sys.executable, "-m", "pipeline.doctor", str(run)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert f"error: {run} was trained on {tmp_path / 'gone.h5'}, which is missing; put it back" in result.stderr
    assert "Traceback" not in result.stderr

"""Provenance: what made a result, without folders and hosts, in every file that a command leaves."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing import provenance
from preprocessing.provenance import ROOT, commit

TRAIN = str(ROOT / "pipeline" / "train.py")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["skelnorm train", "demo", "--data", "/home/me/a.h5"], "skelnorm train demo --data a.h5"),
        ([TRAIN, "default", "--out=../x", "b c.h5"], "python -m pipeline.train default --out=x 'b c.h5'"),
        ([str(ROOT / "pipeline" / "doctor" / "__main__.py"), "."], "python -m pipeline.doctor PATH"),
        (["skelnorm search", "--address", "ray://head:10001"], "skelnorm search --address ADDRESS"),
        (["skelnorm search", "--address=10.1.2.3:6379", "--trials=3"], "skelnorm search --address=ADDRESS --trials=3"),
        (["skelnorm study", "--arms", "norms", "--train.lr", "1e-3"], "skelnorm study --arms norms --train.lr 1e-3"),
        (["/usr/bin/pytest", "-q"], ""),
        (["-c"], ""),
        ([str(ROOT / "tests" / "x.py")], ""),
    ],
)  # fmt: skip
def test_a_command_is_recorded_without_folders_and_hosts(words: list[str], expected: str) -> None:
    assert provenance.running_command(words) == expected


def test_the_record_names_versions_commit_date_and_machine() -> None:
    """And no command: no program of ours runs this test."""
    found = provenance.record()
    assert set(found) - {"commit"} == {"skelnorm", "torch", "numpy", "python", "date", "machine"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", found["date"])
    assert re.search(r", \d+ cores?", found["machine"])
    assert os.uname().nodename not in found["machine"]


def test_it_is_found_without_loading_a_library() -> None:
    probe = "import sys, preprocessing.provenance as p; p.record(); print({'torch', 'numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(("text", "expected"), [("x: 1\nmodel name\t: A 1\nmodel name\t: A 1\n", "A 1"), (None, None)])
def test_the_processor_is_named(text: str | None, expected: str | None, tmp_path: Path) -> None:
    """By its architecture where the system does not say."""
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert provenance.processor(tmp_path / "cpuinfo") == (expected or os.uname().machine)


def test_gpus_are_named_by_the_driver(tmp_path: Path) -> None:
    for bus in "ab":
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text("Model: \t NVIDIA H200\nIRQ: 1\n")
    assert provenance.gpus(tmp_path) == ["NVIDIA H200", "NVIDIA H200"]


def test_only_a_tracked_file_has_a_commit(tmp_path: Path) -> None:
    """A package inside a user's repository does not show that repository's commit."""
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{10,}(-dirty)?", commit(ROOT / "pyproject.toml"))
    assert commit(tmp_path / "a.py") == ""
    for words in (["init"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)
    (tmp_path / "a.py").touch()
    commit.cache_clear()
    assert commit(tmp_path / "a.py") == "", "untracked"
    assert commit(ROOT / ".git" / "nothing" / "a.py") == ""

"""README: its programs run as they stand there; those of other packages where these are installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "pipeline" / "normdoctor"
README = (FOLDER / "README.md").read_text()
PROGRAM = re.compile(r"^### ([\w ]+)\n\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = dict(PROGRAM.findall(README))
NEEDS = {"Lightning": "lightning", "Hugging Face": "transformers", "Graph": "torch_geometric"}
NAMES = ("Plain loop", "Lightning", "Hugging Face", "Segmentation", "Graph")


def test_there_are_five_programs() -> None:
    """One per kind of project."""
    assert tuple(PROGRAMS) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_program_of_the_readme_runs_and_names_its_fault(name: str, tmp_path: Path) -> None:
    """As a stranger runs it: the package is called normdoctor."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    (tmp_path / "normdoctor").symlink_to(FOLDER)
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    command = [sys.executable, "-W", "ignore", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "momentum 0.001 remembers about 1000 updates" in done.stdout, done.stdout
    assert "nothing retrained" in done.stdout


def test_the_program_about_padding_runs(tmp_path: Path) -> None:
    """With the package as `normdoctor`."""
    program = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "counting(model" in code)
    text = program.replace("import normdoctor", "import pipeline.normdoctor as normdoctor")
    names: dict[str, object] = {}
    exec(text, names)  # our own README
    assert tuple(names["y"].shape) == (16, 8, 20)  # type: ignore[attr-defined]

"""The commands of `make demo`, in a row, on fewer recordings, with shorter trainings and one trial."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import outside_scripts

ROOT = Path(__file__).parents[1]
SMALLER = {"--clips 720": "--clips 240", "--trials 4 --epochs 4": "--trials 1 --epochs 1"}


def commands(out: Path) -> list[str]:
    """The lines of the recipe, with this interpreter and small numbers."""
    words = ["make", "-n", "demo", f"OUT={out}", f"BIN={Path(sys.executable).parent}"]
    recipe = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.findall(rf"{re.escape(words[-1][4:])}/python -m (?:preprocessing|pipeline|tuning)\..*", recipe)
    for number, smaller in SMALLER.items():
        found = [line.replace(number, smaller) for line in found]
    return [f"{line} --train.epochs 2" if " -m pipeline.train " in line else line for line in found]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_demo_ends_with_its_report(tmp_path: Path) -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    lines = commands(tmp_path / "demo")
    assert [re.findall(r"-m \w+\.(\w+)", line)[0] for line in lines] == [
        "synthetic", "build", "train", "train", "train", "train", "doctor", "doctor", "search", "page",
    ]  # fmt: skip
    for line in lines:
        done = subprocess.run(line.split(), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert done.stdout.strip() == str(tmp_path / "demo" / "report.html")
    page = outside_scripts(tmp_path / "demo" / "report.html")
    for name in ("bn-loop", "bn-masked", "normalization gap"):
        assert name in page

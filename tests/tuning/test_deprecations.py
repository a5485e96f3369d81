"""Our own calls of Ray, Optuna, torch and W&B are not deprecated: a warning about one of them is an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A warning is attributed to the module that makes the deprecated call, so the warnings of Ray's own calls pass.
STRICT = """
import importlib, sys, warnings
for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
    warnings.filterwarnings("error", category=category, module=r"(preprocessing|pipeline|tuning)(\\.|$)")
module, sys.argv = sys.argv[1], sys.argv[1:]
sys.exit(importlib.import_module(module).main())
"""


def strictly(module: str, *words: object, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, in a process where deprecated calls of ours are errors."""
    return subprocess.run(
        [sys.executable, "-c", STRICT, module, *map(str, words)], capture_output=True, text=True, timeout=400, cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_search_makes_no_deprecated_call(data_file: Path, tmp_path: Path) -> None:
    """Ray Tune, Optuna and the page, in the driver; its first trial by TPE comes after ten random ones."""
    sizes = ["--trials", "2", "--epochs", "1", "--frames", "16", "--wandb", "off"]
    result = strictly("tuning.search", "--data", data_file, "--out", tmp_path / "study", *sizes)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "study" / "best.toml").is_file()


@pytest.mark.slow
def test_a_training_and_its_doctor_make_no_deprecated_call(data_file: Path, tmp_path: Path) -> None:
    words = ["default", "--data", data_file, "--out", tmp_path / "run", "--train.epochs", "1", "--wandb", "offline"]
    result = strictly("pipeline.train", *words)
    assert result.returncode == 0, result.stderr
    result = strictly("pipeline.doctor.__main__", tmp_path / "run")
    assert result.returncode == 0, result.stderr


def test_a_deprecated_call_of_ours_is_seen(tmp_path: Path) -> None:
    """Negative control: the same call from a module of another name passes."""
    code = "import warnings\ndef main():\n    warnings.warn('old', DeprecationWarning, stacklevel=1)\n    return 0\n"
    for name in ("tuning", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "call.py").write_text(code)
    assert "DeprecationWarning: old" in strictly("tuning.call", path=tmp_path).stderr
    assert strictly("others.call", path=tmp_path).returncode == 0

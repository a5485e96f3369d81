"""The public names: documented with examples that run, typed for a strict user, and deprecated before they go."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import normdoctor
from pipeline.normdoctor.deprecation import RENAMED, Renamed, renamed

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", normdoctor.__all__)
def test_every_public_name_has_an_example_that_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own docstring, with `import normdoctor` as a stranger writes it."""
    monkeypatch.setitem(sys.modules, "normdoctor", normdoctor)
    torch.manual_seed(0)
    thing = getattr(normdoctor, name)
    assert ">>>" in (thing.__doc__ or "")
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(thing, name, module=inspect.getmodule(thing), globs={}):
        assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", [name for name in normdoctor.__all__ if inspect.isfunction(getattr(normdoctor, name))])
def test_every_public_function_names_its_arguments(name: str) -> None:
    """Each argument of the signature stands in the docstring."""
    function = getattr(normdoctor, name)
    assert "Args:" in function.__doc__
    for argument in inspect.signature(function).parameters:
        assert f"{argument}: " in function.__doc__, argument


def test_the_interface_changes_only_with_the_version() -> None:
    """Raise the version, and deprecate what goes, before this list changes."""
    assert normdoctor.__version__ == "0.2.0"
    assert sorted(normdoctor.__all__) == [
        "Announcement",
        "Cause",
        "Diagnosis",
        "GeneralizationLoss",
        "History",
        "MaskedBatchNorm",
        "Measurement",
        "Monitor",
        "NormalizationWarning",
        "Suspicion",
        "convert",
        "counting",
        "decayed_scales",
        "diagnose",
        "load_repaired",
        "recalibrate",
    ]
    assert all(record.new in normdoctor.__all__ for record in RENAMED.values())


def test_an_old_name_works_and_warns() -> None:
    """What it is called now, and when it goes; a name that never was is an AttributeError."""
    table = {"examine": Renamed("diagnose", "0.3.0", "0.4.0")}
    with pytest.warns(
        DeprecationWarning, match=r"normdoctor.examine is deprecated since 0.3.0 and goes with 0.4.0: use"
    ):
        assert renamed("normdoctor", "examine", vars(normdoctor), table) is normdoctor.diagnose
    with pytest.raises(AttributeError, match="has no attribute 'never'"):
        _ = normdoctor.never


USER = """
from typing import Any

import torch
from torch import Tensor, nn

import normdoctor

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
data = [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(4)]


def forward(model: nn.Module, batch: Any) -> Any:
    return model(batch[0])


def right(output: Any, batch: Any) -> Tensor:
    found: Tensor = output.argmax(1) == batch[1]
    return found


diagnosis = normdoctor.diagnose(model, data, data, forward=forward, metric=right)
name: str | None = diagnosis.remedy
repaired: nn.Module = diagnosis.repaired("joint")
share: float = sum(cause.recovered for cause in diagnosis.causes)
again: nn.Module = normdoctor.load_repaired(model, repaired.state_dict())
fresh: nn.Module = normdoctor.recalibrate(model, data, per_call=True, copy=True)
converted: nn.Module = normdoctor.convert(model, synchronized=True)
with normdoctor.counting(converted, torch.ones(16)):
    converted(data[0][0])
monitor = normdoctor.Monitor(model)
monitor.step(data[0])
"""


@pytest.mark.slow
def test_types_hold_in_a_strict_user_s_file(tmp_path: Path) -> None:
    """mypy --strict; a wrong argument is found (negative control)."""
    (tmp_path / "normdoctor").symlink_to(ROOT / "pipeline" / "normdoctor")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "c")]
    command += ["--config-file", "", "user.py"]
    strict = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert strict.returncode == 0, strict.stdout
    (tmp_path / "user.py").write_text(USER + "normdoctor.diagnose(model, 3)\n")
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert 'incompatible type "int"' in wrong.stdout

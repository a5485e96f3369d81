"""fix: the repaired run is a run like any other, better by what is claimed, and the given one stays as it was."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, predict, training
from pipeline.config import as_dict, from_dict
from pipeline.doctor.__main__ import described
from pipeline.doctor.patient import diagnose_run
from pipeline.doctor.repair import converted, fix_run, kept_as
from pipeline.models.bodies import SlotNorms
from pipeline.run_folder import Run
from preprocessing.files import sha256_file

CPU = torch.device("cpu")


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def fixed(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The loop run, repaired."""
    out = tmp_path_factory.mktemp("fixed") / "run"
    before = contents(runs / "bn-loop")
    remedy = diagnose_run(runs / "bn-loop", "auto")[0].remedy
    entry = fix_run(runs / "bn-loop", remedy, out)
    assert contents(runs / "bn-loop") == before
    return out, entry


@pytest.mark.parametrize(
    ("name", "stream"), [("cnn", "bone"), ("hcn", "joint"), ("stgcn", "joint"), ("ctrgcn", "bone")]
)
def test_every_network_can_be_repaired(data_file: Path, name: str, stream: str) -> None:
    """Graph networks and bone streams need the file's bones; the weights are the same, under other sharing."""
    values = {"data": data_file, "out": Path("unused"), "input": {"frames": 16, "stream": stream}}
    values |= {"model": {"name": name, "width": 0.25}, "norm": {"persons": "loop"}}
    config = from_dict(values)
    clips, _, state = training.setup(config, CPU)
    settings = dataclasses.replace(config, norm=dataclasses.replace(config.norm, persons="per_person"))
    batch = clips.batch(torch.arange(6), 16)
    with torch.no_grad():
        before = state.model.eval()(batch.x_NCTVM, batch.present_NMT)
        after = converted(state.model, settings, clips)(batch.x_NCTVM, batch.present_NMT)
    torch.testing.assert_close(after, before)  # no recalibration yet: each slot starts from the shared set


def test_a_loop_becomes_a_network_with_statistics_of_each_slot(runs: Path, fixed: tuple[Path, dict]) -> None:
    """The same weights, one set of statistics a slot, and the accuracy that training had."""
    out, entry = fixed
    config, model = Run(out, CPU).config, Run(out, CPU).network()
    sick = Run(runs / "bn-loop", CPU).network()
    assert config.norm.persons == "per_person"
    assert entry["remedy"] == "per_call"
    for (name, p), (_, q) in zip(model.named_parameters(), sick.named_parameters(), strict=True):
        assert torch.equal(p, q), name
    slots = [module for module in model.modules() if isinstance(module, SlotNorms)]
    assert len(slots) == 3
    assert all(not torch.equal(pair[0].running_mean, pair[1].running_mean) for pair in slots)
    assert all(pair[0].weight is pair[1].weight for pair in slots)
    before, after = (entry[key]["accuracies"] for key in ("before", "after"))
    assert after["A"] > before["A"] + 0.2
    assert after["C"] > before["C"]
    assert after["B"] - after["A"] < 0.05


def test_its_summary_says_what_was_done_and_what_it_brought(runs: Path, fixed: tuple[Path, dict]) -> None:
    """Before: the given run's own summary."""
    summary = json.loads((fixed[0] / "summary.json").read_text())
    given = json.loads((runs / "bn-loop" / "summary.json").read_text())
    assert summary["fix"]["of"] == "bn-loop"
    assert summary["fix"]["before"]["accuracies"] == given["accuracies"]
    assert summary["fix"]["after"]["accuracies"] == summary["accuracies"]
    assert summary["train"] == given["train"]


def test_it_can_be_asked(runs: Path, fixed: tuple[Path, dict]) -> None:
    """The metadata that its network needs without the data file came along."""
    assert predict.load(fixed[0]).metadata == Run(runs / "bn-loop").metadata


def test_the_doctor_finds_no_normalization_gap_in_it(fixed: tuple[Path, dict]) -> None:
    """And loads it."""
    assert diagnose_run(fixed[0], "test")[0].causes == []


def test_training_can_go_on_from_it(fixed: tuple[Path, dict]) -> None:
    """The trainer's own state loads, optimizer included, and takes a step."""
    run = Run(fixed[0], CPU)
    config, clips, splits = run.config, run.clips, run.splits
    saved = checkpoint.load(fixed[0])
    _, _, state = training.setup(config, CPU)
    state.load(saved[1])
    more = {"epochs": saved[0] + 1}
    settings = from_dict({**as_dict(config), "train": {**vars(config.train), **more}})
    records = list(training.fit(settings, clips, splits, state, done=saved[0]))
    assert records[0]["epoch"] == saved[0] + 1
    assert records[0]["train"]["top1"] > 0.5


def test_a_healthy_run_is_not_repaired(runs: Path, tmp_path: Path) -> None:
    """Nothing is written."""
    assert diagnose_run(runs / "bn-masked", "auto")[0].remedy is None
    assert fix_run(runs / "bn-masked", None, tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


def test_what_a_network_of_ours_cannot_keep_is_left_to_a_simpler_remedy(runs: Path, tmp_path: Path) -> None:
    """One call per forward pass has no sets per call; a simpler remedy must raise A, and here it does not."""
    config = from_dict({"data": Path("unused"), "out": Path("unused"), "norm": {"persons": "masked"}})
    assert kept_as("per_call", config) is None
    assert kept_as("eps", config) is None
    assert kept_as("joint", config) == config
    assert fix_run(runs / "bn-masked", "per_call", tmp_path / "out") is None
    assert not (tmp_path / "out").exists()
    line = described(None, "per_call")
    assert "no run folder can keep the remedy 'per_call'" in line


def test_nothing_is_overwritten(runs: Path, fixed: tuple[Path, dict]) -> None:
    """Not even a repair."""
    with pytest.raises(ValueError, match="overwrites nothing"):
        fix_run(runs / "bn-loop", "joint", fixed[0])
    with pytest.raises(ValueError, match="overwrites nothing"):
        fix_run(runs / "bn-loop", None, runs / "bn-loop")


def test_the_command_repairs_and_reports(runs: Path, tmp_path: Path) -> None:
    """doctor.json has the same figures; --out without --fix is a mistake."""
    out = tmp_path / "fixed"
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-loop"), "--out", str(out)]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert alone.returncode == 2
    assert "add --fix" in alone.stderr
    result = subprocess.run([*command, "--fix", "--split", "test"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    doctor = json.loads((runs / "bn-loop" / "doctor.json").read_text())
    assert doctor["fix"]["after"] == json.loads((out / "summary.json").read_text())["fix"]["after"]
    assert "repaired (per_call)" in result.stdout.replace("\n", " ")


def test_a_repair_that_cannot_be_written_is_rejected_before_anything_is_measured(runs: Path, tmp_path: Path) -> None:
    """No doctor.json yet; from within the folder, where its name is a dot."""
    run = tmp_path / "run"
    shutil.copytree(runs / "bn-loop", run)
    (run / "doctor.json").unlink(missing_ok=True)
    (tmp_path / "run-fixed").mkdir()
    command = [sys.executable, "-m", "pipeline.doctor", ".", "--fix"]
    home = {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, cwd=run, capture_output=True, text=True, env=os.environ | home)
    assert result.returncode == 2
    assert f"{run}-fixed exists, and a repair overwrites nothing" in result.stderr
    assert not (run / "doctor.json").exists()


@pytest.mark.parametrize(
    ("measured", "words"), [("AC", "A 50.0 -> 75.0 %, C 50.0 -> 75.0 % (C: test)"), ("A", "A 50.0 -> 75.0 %;")]
)
def test_a_repair_is_described_by_what_was_measured(measured: str, words: str) -> None:
    """Without held-out clips there is no C to report."""
    fix = {when: {"accuracies": dict.fromkeys(measured, value)} for when, value in (("before", 0.5), ("after", 0.75))}
    line = described(fix | {"remedy": "per_call", "eval": "test", "out": "out"}, "per_call")
    assert words in line
    assert ("(C" in line) == ("C" in measured)

"""training: short trainings of a copy find a rate that was not decayed and norms that heal; the run stays as it was."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import train, training
from pipeline.config import from_dict
from pipeline.doctor.probes import FINE_TUNES, LOWER_RATE, fine_tunes, last_rate, probe_rate, start, trained
from pipeline.run_folder import Run
from tests.conftest import CLASSES, JOINTS, moving_body, write_file
from tests.pipeline.conftest import SMALL, trained_run
from tests.pipeline.doctor.test_repair import contents


def run_at(data: Path, out: Path, lr: float, schedule: str) -> Path:
    """A finished run at this learning rate."""
    values = {"norm": {"persons": "masked"}, "optim": {"lr": lr, "schedule": schedule}}
    config = from_dict({"data": data, "out": out, **values, **SMALL})
    Run.claim(config)
    train.run(config)
    return out


@pytest.fixture(scope="module")
def tuned(runs: Path) -> dict[str, dict[str, Any]]:
    """The loop run, trained on in each way; neither folder nor random state may change.

    Sixteen epochs: the new norms start from weights that fit others, and after four the outcome is the CPU's rounding.
    """
    before, state = contents(runs / "bn-loop"), torch.get_rng_state()
    result = fine_tunes(runs / "bn-loop", "test", 16)
    assert contents(runs / "bn-loop") == before
    assert torch.equal(torch.get_rng_state(), state)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("lr", [10.0, 1.0])
def test_what_the_network_learns_decides_not_what_its_statistics_catch_up_with(tmp_path: Path, lr: float) -> None:
    """With a lower rate C always rises, because running statistics fit again. The rate is blamed where D rises too."""
    data = write_file(tmp_path / "many.h5", clips=600)
    entry = probe_rate(run_at(data, tmp_path / "hot", lr, "constant"), "test", 3)
    assert entry["gain"]["C"]["significant"], entry["text"]
    words = "learning rate not decayed" if entry["gain"]["D"]["significant"] else "no sign of a learning rate too high"
    assert entry["text"].startswith(f"{words}: 3 epochs at a tenth of it"), entry["text"]


def test_a_rate_that_was_low_brings_nothing(data_file: Path, tmp_path: Path) -> None:
    """Negative control: at a tenth of next to nothing, nothing moves."""
    entry = probe_rate(run_at(data_file, tmp_path / "cold", 1e-6, "constant"), "test", 1)
    assert entry["text"].startswith("no sign of a learning rate too high")
    assert not entry["gain"]["D"]["significant"]


def test_a_rate_that_fell_needs_no_probe(data_file: Path, tmp_path: Path) -> None:
    """Cosine ends at zero."""
    entry = probe_rate(run_at(data_file, tmp_path / "cosine", 1e-3, "cosine"), "test", 1)
    assert entry["text"].startswith("learning rate decayed")
    assert "after" not in entry


def test_copies_train_at_the_rates_that_they_are_compared_at() -> None:
    """The probe at a tenth of the rate in the middle of the last epoch; new norms at the run's own, never frozen."""
    values = {"data": Path("unused"), "out": Path("unused"), "norm": {"kind": "frozen_bn", "freeze_after": 7}}
    values |= {"optim": {"lr": 2.0, "schedule": "cosine", "warmup": 1.0}, "train": {"epochs": 10}}
    config = from_dict(values)
    assert last_rate(config) == pytest.approx(1 + math.cos(0.95 * math.pi))
    lower = LOWER_RATE.change(config).optim
    assert (lower.lr, lower.schedule, lower.warmup) == (pytest.approx(0.1 * last_rate(config)), "constant", 0.0)
    for name, kind in (("swap", "gn"), ("input", "frozen_bn")):
        changed = FINE_TUNES[name].change(config)
        assert (changed.optim.lr, changed.optim.schedule, changed.optim.warmup) == (2.0, "cosine", 0.0)
        assert (changed.norm.kind, changed.norm.freeze_after) == (kind, 0)


def test_a_copy_trains_in_the_runs_memory_order(data_file: Path) -> None:
    """Which decides its speed."""
    for order in (True, False):
        few = SMALL | {"train": SMALL["train"] | {"channels_last": order}}
        config = from_dict({"data": data_file, "out": Path("unused"), **few})
        clips, splits, state = training.setup(config, torch.device("cpu"))
        weight = trained(config, 1, clips, splits, start(config, clips, state.model)).convolutions[1].weight  # type: ignore[union-attr,index]
        assert weight.is_contiguous(memory_format=torch.channels_last) is order  # type: ignore[union-attr,operator]


@pytest.mark.slow
def test_frozen_statistics_and_a_swapped_layer_heal_the_loop(tuned: dict[str, dict[str, Any]]) -> None:
    """Both train with what they evaluate with; training on as before does not heal."""
    assert set(tuned) == set(FINE_TUNES)
    for name in ("freeze", "swap"):
        assert tuned[name]["gain"]["C"]["significant"], tuned[name]["text"]
        assert tuned[name]["after"]["C"] > tuned["train_on"]["after"]["C"] + 0.1, tuned[name]["text"]


def whispering_body(rng: np.random.Generator, label: int, frames: int, subject: int) -> np.ndarray:
    """Joints that hardly move lie a centimetre further out with each class; on test subjects (even), of another one."""
    body = moving_body(rng, label, frames, subject)
    still = slice(6, JOINTS)
    told = label if subject % 2 else (label + 1) % CLASSES
    body[:, still] = rng.normal(0, 0.001, body[:, still].shape)
    body[:, still, 0] += 0.01 * told
    return body


@pytest.fixture(scope="module")
def misled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that gave each coordinate of each joint its own scale, and each coordinate one for all joints."""
    folder = tmp_path_factory.mktemp("misled")
    data = write_file(folder / "whispering.h5", clips=480, body=whispering_body)
    return {kind: trained_run(data, folder / kind, persons="masked", input=kind) for kind in ("vc_masked", "c_masked")}


@pytest.mark.slow
def test_another_scale_of_the_input_heals_what_was_learnt_from_joints_that_hardly_move(misled: dict[str, Path]) -> None:
    """And nothing else does: other statistics and other norms bring what the epochs alone bring."""
    tuned = fine_tunes(misled["vc_masked"], "test", 8)
    assert tuned["input"]["after"]["C"] > tuned["train_on"]["after"]["C"] + 0.1, tuned["train_on"]["text"]
    assert tuned["input"]["text"].endswith(": one scale per coordinate for all joints (norm.input c_masked)")
    assert {name for name, entry in tuned.items() if entry["helps"]} - {"train_on"} == {"input"}


def test_a_run_of_one_scale_has_no_other_to_try(misled: dict[str, Path]) -> None:
    """Nothing is trained for it."""
    assert set(fine_tunes(misled["c_masked"], "test", 1)) == set(FINE_TUNES) - {"input"}


@pytest.mark.parametrize(("kind", "given"), [("none", "none"), ("gn", "vc_masked")])
def test_without_statistics_only_the_input_is_tried(data_file: Path, tmp_path: Path, kind: str, given: str) -> None:
    """Nothing to freeze, and no batch norm to swap."""
    run = trained_run(data_file, tmp_path / kind, kind=kind, persons="masked", input=given)
    assert set(fine_tunes(run, "test", 1)) == {"train_on", "input"}


def test_without_a_norm_to_change_it_says_so(data_file: Path, tmp_path: Path) -> None:
    """One line."""
    run = trained_run(data_file, tmp_path / "run", kind="none", persons="masked", input="c_masked")
    with pytest.raises(ValueError, match="run has no norm to change"):
        fine_tunes(run, "test", 1)


def test_the_command_writes_and_prints_both(runs: Path) -> None:
    """In words, in doctor.json and on the page."""
    out = runs / "trained.html"
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-masked"), "--split", "test"]
    command += ["--probe-lr", "1", "--fine-tune", "1", "--html", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    answer = json.loads((runs / "bn-masked" / "doctor.json").read_text())
    printed = " ".join(result.stdout.split())
    for entry in (answer["probe_lr"], *answer["fine_tune"].values()):
        assert " ".join(entry["text"].split()) in printed
        assert entry["text"].split(":")[0] in out.read_text()


def test_negative_epochs_are_rejected(runs: Path) -> None:
    """Exit 2."""
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-masked"), "--fine-tune=-1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "numbers of epochs" in result.stderr

"""A training that is killed at any moment resumes to the weights of an undisturbed one, bit for bit (F18)."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import integrity, train
from pipeline.config import Config, from_dict
from pipeline.run_folder import Run
from tests.conftest import write_file
from tests.pipeline.conftest import SMALL
from tests.processes import forked

EPOCHS = 4
POINTS = ("ledger written", "checkpoint published", "pointer published", "part allowed", "part published")
CPU = torch.device("cpu")


def training(config: Config) -> Callable[[], None]:
    def work() -> None:
        Run.claim(config)
        train.run(config)

    return work


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("data") / "a.h5", clips=48)


def settings(data: Path, out: Path) -> Config:
    values = SMALL | {"train": {"epochs": EPOCHS, "eval_every": 2, "batch_size": 8, "self_test": False}}
    return from_dict({"data": data, "out": out, **values})


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = settings(data, tmp_path_factory.mktemp("undisturbed") / "run")
    assert forked(training(config)) == 0
    return Run(config.out, CPU)


def require_same(run: Run, undisturbed: Run) -> None:
    """Weights, figures and ledger are those of the undisturbed training."""
    assert all(torch.equal(run.weights[name], x) for name, x in undisturbed.weights.items())
    assert run.summary["accuracies"] == undisturbed.summary["accuracies"]
    losses = [[(line["epoch"], line["train"]) for line in one.ledger] for one in (run, undisturbed)]
    assert losses[0] == losses[1]


def kill_and_resume(config: Config, undisturbed: Run, **how: object) -> int:
    """Kill a training once and resume it; return how the first one ended."""
    shutil.rmtree(config.out, ignore_errors=True)
    code = forked(training(config), **how)  # type: ignore[arg-type]
    integrity.check(config.out, resuming=True)  # whatever is there is whole
    assert forked(training(config)) == 0
    require_same(Run(config.out, CPU), undisturbed)
    return code


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("time", [1, 2])
def test_a_kill_at_each_step_of_a_save(point: str, time: int, data: Path, undisturbed: Run, tmp_path: Path) -> None:
    """Between ledger, checkpoint and pointer, and while the summary is written."""
    code = kill_and_resume(settings(data, tmp_path / "run"), undisturbed, faultpoint=f"{point}:{time}")
    reached = time == 1 or not point.startswith("part")  # the summary is the only part that is replaced, once
    assert code == (-signal.SIGKILL if reached else 0)  # the fault happened


@pytest.mark.slow
def test_kills_at_random_moments(data: Path, undisturbed: Run, tmp_path: Path) -> None:
    """Until 300 have hit a running training; some come too late."""
    config, rng = settings(data, tmp_path / "run"), random.Random(0)
    began = time.monotonic()
    assert kill_and_resume(config, undisturbed) == 0
    whole = (time.monotonic() - began) / 2
    count = int(os.environ.get("SKELNORM_KILLS", "300"))
    killed = late = 0
    while killed < count:
        code = kill_and_resume(config, undisturbed, kill_after=rng.uniform(0.02, whole))
        assert code in (-signal.SIGKILL, 0)
        killed, late = killed + (code != 0), late + (code == 0)
        print(f"{killed} trainings killed, {late} had ended", flush=True)
    assert late < count


@pytest.mark.slow
def test_without_the_allowed_pair_a_kill_would_be_taken_for_an_edit(
    data: Path, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the pointer must allow both contents before a part is replaced."""
    config = settings(data, tmp_path / "run")
    shutil.copytree(undisturbed.folder, config.out)
    summary = Run(config.out).summary
    integrity.files.publish_json(config.out / integrity.SUMMARY, summary | {"new": 1})
    with pytest.raises(integrity.files.IntegrityError, match="differs from what was written"):
        integrity.check(config.out)

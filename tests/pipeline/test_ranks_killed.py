"""Ranks killed at random moments: the command names the rank, and the resumed run ends with the undisturbed weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint

ROOT = Path(__file__).parents[2]
KILLS = 60  # in all
RUNS = 6
pytestmark = pytest.mark.slow


def start(data: Path, run: Path) -> subprocess.Popen[str]:
    """A training of two ranks."""
    words = ["default", "--data", str(data), "--out", str(run), "--nproc", "2", "--wandb", "off"]
    words += ["--train.epochs", "40", "--train.batch-size", "16", "--input.frames", "16", "--train.no-self-test"]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def ranks_of(launcher: int) -> list[int]:
    """The pids of the ranks, in their order."""
    found = []
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
        except OSError:
            continue
    return found


def saved_epoch(run: Path) -> int:
    """The epoch of the newest checkpoint, 0 without one."""
    pointer = run / "checkpoint.json"
    return int(json.loads(pointer.read_text())["epoch"]) if pointer.exists() else 0


def final(run: Path) -> dict[str, torch.Tensor]:
    """The weights and buffers at the end."""
    saved = checkpoint.load(run)
    assert saved is not None
    assert saved.epoch == 40
    return saved.state["model"]


def require_same(run: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    """The weights at the end are those of the undisturbed run, bit for bit."""
    assert all(torch.equal(x, undisturbed[name]) for name, x in final(run).items())


@pytest.fixture(scope="module")
def undisturbed(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that nobody disturbs."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = start(data_file, run)
    assert process.communicate(timeout=300)
    assert process.returncode == 0
    return final(run)


@pytest.mark.parametrize("number", range(RUNS))
def test_a_killed_rank_changes_no_bit(
    data_file: Path, undisturbed: dict[str, torch.Tensor], tmp_path: Path, number: int
) -> None:
    """Ten kills per run, of either rank, from its start to its end: in steps, collectives, evaluations, saves."""
    draw, kills, run = random.Random(number), 0, tmp_path / "0"
    while kills < KILLS // RUNS:
        process = start(data_file, run)
        while len(ranks_of(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        begun = saved_epoch(run)
        # Half of the kills come once the first epoch of this start is saved; the rest wherever the start has got to.
        if draw.random() < 0.5:
            while process.poll() is None and saved_epoch(run) == begun:
                time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.5))
        rank = draw.randrange(2)
        alive = ranks_of(process.pid) if process.poll() is None else []
        if len(alive) < 2:  # it has come to its end: another run takes the other kills
            _, stderr = process.communicate(timeout=300)
            assert process.returncode == 0, stderr
            require_same(run, undisturbed)
            run = tmp_path / str(kills + 1)
            continue
        os.kill(alive[rank], signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 3, stderr
        assert stderr.rstrip().endswith(f"error: rank {rank} was killed (SIGKILL), perhaps because memory ran out")
        assert "Traceback" not in stderr
        kills += 1
    process = start(data_file, run)
    assert process.communicate(timeout=300)
    assert process.returncode == 0
    require_same(run, undisturbed)

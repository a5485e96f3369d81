"""tuning.train: one training over the nodes of a cluster is the training of `pipeline.train`, bit by bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.run_folder import Run
from preprocessing import exits
from tests.processes import name, tree
from tests.tuning.clusters import two_nodes
from tuning.train import read

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")

TIME_LIMIT = 300  # seconds, of any one step
SETTINGS = ["--train.epochs", "40", "--train.eval-every", "20", "--input.frames", "16", "--wandb", "off"]


def test_the_ranks_of_all_nodes_are_the_ranks_of_the_run(data_file: Path, tmp_path: Path) -> None:
    words = ["default", "--data", str(data_file), "--out", str(tmp_path / "run"), "--nodes", "3"]
    place, config = read([*words, "--ranks-per-node", "2", "--norm.kind", "gn"])
    assert (place.ranks, config.nproc, config.norm.kind) == (6, 6, "gn")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "nodes 0 is too small: must be at least 1"),
        (["--gpus-per-rank", "-1"], "must be at least 0"),
        (["--nproc", "2"], "--nproc 2 is for one machine: use --nodes and --ranks-per-node"),
        (["--dry-run"], "--dry-run is unknown"),
        (["--nods", "2"], "did you mean --nodes?"),
        (["--norm.kind", "layer"], "norm.kind"),
    ],
)
def test_a_wrong_option_gets_one_line(
    data_file: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ValueError, SystemExit)) as error:
        read(["default", "--data", str(data_file), "--out", str(tmp_path / "run"), *words])
    assert message in str(error.value) + capsys.readouterr().err


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes of one each on this machine, ended with the test."""
    with two_nodes() as made:
        yield made


def start(module: str, data_file: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """A training in a process of its own, one thread per rank."""
    command = [sys.executable, "-m", module, "default", "--data", str(data_file), "--out", str(out), *SETTINGS, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights and buffers of a finished run."""
    found: dict[str, torch.Tensor] = Run(run).network().state_dict()
    return found


def wait_for_epochs(run: Path, process: subprocess.Popen[str]) -> None:
    """Return once two epochs are recorded and the training still runs."""
    ledger, deadline = run / "ledger.jsonl", time.monotonic() + TIME_LIMIT
    while not (ledger.exists() and ledger.read_text().count("\n") >= 2) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.poll() is None, "the training ended before a rank could be killed"


@pytest.mark.slow
def test_two_nodes_of_which_one_dies_end_with_the_weights_of_two_ranks_on_one_machine(
    data_file: Path, tmp_path: Path, cluster: Any
) -> None:
    plain = start("pipeline.train", data_file, tmp_path / "plain", "--nproc", "2")
    assert plain.wait(TIME_LIMIT) == 0
    process = start("tuning.train", data_file, tmp_path / "run", "--nodes", "2", "--address", cluster.address)
    wait_for_epochs(tmp_path / "run", process)
    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    output, _ = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0, output
    expected = weights(tmp_path / "plain")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "run").items())
    assert not list(tmp_path.glob(".run-ray-*"))


@pytest.mark.slow
def test_ranks_of_one_machine_meet_through_a_file_again_after_a_death(data_file: Path, tmp_path: Path) -> None:
    """The new start gets a file of its own, and ends with the weights of two ranks that were not disturbed."""
    process = start("tuning.train", data_file, tmp_path / "run", "--ranks-per-node", "2", "--max-failures", "2")
    wait_for_epochs(tmp_path / "run", process)
    rank = next(pid for pid in tree(process.pid) if "TrainWorker" in name(pid))
    os.kill(rank, signal.SIGKILL)
    output, _ = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0, output
    plain = start("pipeline.train", data_file, tmp_path / "plain", "--nproc", "2")
    output, _ = plain.communicate(timeout=TIME_LIMIT)
    assert plain.returncode == 0, output
    expected = weights(tmp_path / "plain")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "run").items())


@pytest.mark.slow
def test_an_error_of_a_rank_reaches_the_command_with_its_exit_code(data_file: Path, tmp_path: Path) -> None:
    more = ["--optim.lr", "1e30", "--max-failures", "0", "--train.no-self-test"]
    process = start("tuning.train", data_file, tmp_path / "run", *more)
    output, _ = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == exits.NON_FINITE, output
    assert "error: rank 0" in output
    assert "Traceback" not in output.splitlines()[-1]

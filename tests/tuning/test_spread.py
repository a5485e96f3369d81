"""spread.py: trials whose ranks are divided among two nodes, which are two raylets on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.run_folder import Run
from tests.processes import name as title
from tests.processes import running, tree
from tests.tuning.clusters import two_nodes
from tuning import engine, spread
from tuning.engine import Resources
from tuning.search import Search
from tuning.study import Study, run_study
from tuning.trial_spec import TrialSpec

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")

TIME_LIMIT = 240  # seconds, of any one step
LIMIT = 10.0  # seconds in which the processes of a trial must end
KILLED = "rank died: rank 1 was killed (SIGKILL), perhaps because memory ran out"
LOST = "rank died: rank 0 lost the connection to another rank; its traceback stands above"


@pytest.mark.parametrize(
    ("causes", "root"),
    [
        ([LOST, KILLED], KILLED),
        ([KILLED, LOST], KILLED),
        ([LOST, None], LOST),
        ([LOST, "rank died: rank 1 was ended by SIGABRT without a message"], LOST),
        (["non-finite: epoch 1", "non-finite: epoch 1 too"], "non-finite: epoch 1"),
        ([None, "worker lost: node 1: The actor died"], "worker lost: node 1: The actor died"),
        (
            ["time: not finished after 3 s", "killed: by signal 9 (perhaps out of memory)"],
            "time: not finished after 3 s",
        ),
    ],
)
def test_the_cause_is_that_of_the_node_that_failed_first(causes: list[str | None], root: str) -> None:
    assert spread.root_cause(causes) == root


@pytest.mark.parametrize(
    ("ranks", "bundles", "strategy"),
    [
        (1, [{"CPU": 2.0, "GPU": 0.5}], "PACK"),
        (2, [{"CPU": 2.0, "GPU": 0.5}] * 2, "STRICT_SPREAD"),
        (6, [{"CPU": 6.0, "GPU": 1.5}] * 2, "STRICT_SPREAD"),
    ],
)
def test_each_node_of_a_trial_has_a_bundle(ranks: int, bundles: list[dict[str, float]], strategy: str) -> None:
    """A trial of one rank has one."""
    spec = TrialSpec({"nproc": ranks}).to_json()
    placed = engine._placement({"spec": spec}, Resources(2, 0.5, None, nodes=2))
    assert (placed.bundles, placed.strategy) == (bundles, strategy)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ranks_per_trial": 2}, "--nodes-per-trial 2 needs a cluster: add --address auto."),
        ({"ranks_per_trial": 3, "address": "auto"}, "--ranks-per-trial 3 cannot be divided among 2 nodes"),
        ({"address": "auto"}, "--ranks-per-trial 1 cannot be divided among 2 nodes"),
    ],
)
def test_ranks_that_cannot_be_divided_among_the_nodes_are_rejected(
    data_file: Path, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Search(data_file, tmp_path / "study", nodes_per_trial=2, **more)


def test_an_arm_whose_ranks_cannot_be_divided_is_rejected_before_ray_starts(data_file: Path, tmp_path: Path) -> None:
    """Negative control: an arm with one rank has one node."""
    (tmp_path / "arms.toml").write_text('baseline = "a"\n[arms.a]\nnorm.kind = "none"\n[arms.b]\nranks = 3\n')
    study = Study(data_file, tmp_path / "study", arms=str(tmp_path / "arms.toml"), nodes_per_trial=2, address="auto")
    with pytest.raises(ValueError, match="arm 'b': ranks 3 cannot be divided among 2 nodes"):
        run_study(study)


def test_an_agent_does_not_start_an_attempt_that_was_stopped(tmp_path: Path) -> None:
    """Nor one whose folder its node does not have: that one is reported."""
    agent, node = spread.NodeAgent(), spread.Node(1, 2, "127.0.0.1", 1)
    agent.stop(1)
    assert agent.run(1, tmp_path, TrialSpec({}), node) == ""
    missing = agent.run(2, tmp_path / "other", TrialSpec({}), node)
    assert missing.startswith(f"settings: {tmp_path / 'other'} is missing on node 1: ")
    assert agent.attempt is None


@pytest.mark.parametrize(("nodes", "noted"), [(1, False), (2, True)])
def test_a_cluster_with_too_few_nodes_is_reported(
    nodes: int, noted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node that has left does not count."""
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}, {"Alive": False}])
    spread.report_missing_nodes(nodes)
    assert ("the cluster has 1 of the 2 nodes per trial" in capsys.readouterr().err) is noted


# From here on with a cluster.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes of one each on this machine."""
    with two_nodes() as made:
        yield made


@pytest.fixture
def study(data_file: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a study of one arm with two ranks, in a process of its own."""

    def start(out: str, *more: str, epochs: int = 40) -> subprocess.Popen[str]:
        (tmp_path / "arms.toml").write_text('baseline = "a"\n[arms.a]\nnorm.persons = "masked"\nranks = 2\n')
        words = ["--data", data_file, "--arms", tmp_path / "arms.toml", "--out", tmp_path / out, "--epochs", epochs]
        return command("tuning.study", *words, "--frames", 16, "--keep", *more)

    return start


def command(module: str, *words: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", module, *map(str, words), "--wandb", "off"], **pipes)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 0, output


def events(study: Path) -> list[dict[str, Any]]:
    """The whole lines of a study's ledger."""
    path = study / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = Run(run).network().state_dict()
    return found


def processes(trial: Path, log: str = "log*.txt") -> set[int]:
    """Pids of the processes that write a trial's logs, and of their ranks."""
    found: set[int] = set()
    for path in trial.glob(log):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and written(entry) == str(path):
                found |= set(tree(int(entry.name)))
    return found


def written(entry: Path) -> str:
    try:
        return os.readlink(entry / "fd" / "1")
    except OSError:
        return ""


def alive(pids: set[int]) -> set[int]:
    return set(filter(running, pids))


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, limit: float = TIME_LIMIT
) -> Any:
    deadline = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "the command ended too early"
        time.sleep(0.05)
    return found


def epochs(trial: Path) -> int:
    ledger = trial / "ledger.jsonl"
    return ledger.read_text().count("\n") if ledger.exists() else 0


@pytest.mark.slow
def test_two_nodes_train_as_one_does_also_after_a_rank_was_killed(
    study: Callable[..., subprocess.Popen[str]], tmp_path: Path, cluster: Any
) -> None:
    """The cause is that of the node which lost its rank; the trial is resumed; the weights are equal bit by bit."""
    process = study("there", "--seeds", "2", "--nodes-per-trial", "2", "--address", cluster.address)
    first = tmp_path / "there" / "trials" / "a-s0"
    wait_for(lambda: epochs(first) >= 2, process)
    launcher, rank = sorted(processes(first, "log-1.txt"))[0], max(processes(first, "log-1.txt"))
    assert launcher != rank
    os.kill(rank, signal.SIGKILL)
    finish(process)
    finish(study("here", "--seeds", "2"))
    failed = [(line["failed"], line["cause"]) for line in events(tmp_path / "there") if "failed" in line]
    assert failed == [("a-s0", KILLED)]
    ended = [line["ended"] for line in events(tmp_path / "there") if "ended" in line]
    assert {one["task"]["name"]: one["attempts"] for one in ended} == {"a-s0": 2, "a-s1": 1}
    for name in ("a-s0", "a-s1"):
        there, here = (tmp_path / place / "trials" / name for place in ("there", "here"))
        assert (there / "log-1.txt").exists()
        assert not (here / "log-1.txt").exists()
        assert json.loads((there / "summary.json").read_text())["ranks"] == 2
        expected = weights(here)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in weights(there).items())
    one, two = (json.loads((tmp_path / place / "results.json").read_text()) for place in ("here", "there"))
    assert one["arms"] == two["arms"]


@pytest.mark.slow
def test_a_trial_that_is_stopped_early_ends_on_both_nodes(data_file: Path, tmp_path: Path, cluster: Any) -> None:
    """Each of its processes within LIMIT of the record, long before its last epoch; its checkpoints are removed."""
    length, study = 200, tmp_path / "study"
    process = command(
        "tuning.search", "--data", data_file, "--out", study, "--trials", 4, "--epochs", length, "--grace", 1,
        "--frames", 16, "--ranks-per-trial", 2, "--nodes-per-trial", 2, "--address", cluster.address,
    )  # fmt: skip
    seen: dict[str, set[int]] = {}
    stopped: dict[str, float] = {}
    slowest = 0.0
    while process.poll() is None or any(map(alive, seen.values())):
        for trial in study.glob("trials/*"):
            seen.setdefault(trial.name, set()).update(processes(trial))
        for line in events(study):
            if line.get("ended", {}).get("outcome") == "stopped":
                stopped.setdefault(line["ended"]["task"]["name"], time.monotonic())
        for name, since in stopped.items():
            if alive(seen[name]):
                slowest = max(slowest, time.monotonic() - since)
        assert slowest < LIMIT
        time.sleep(0.2)
    finish(process)
    print(f"stopped: {sorted(stopped)}, the slowest ended {slowest:.1f} s after its record")
    assert stopped
    assert all(len(seen[name]) >= 4 for name in stopped)  # a launcher and a rank per node
    assert all(epochs(study / "trials" / name) < length for name in stopped)
    assert not any((study / "trials" / name / "checkpoints").exists() for name in stopped)


@pytest.mark.slow
def test_a_node_that_dies_fails_the_trial_and_a_new_node_takes_over(
    study: Callable[..., subprocess.Popen[str]], tmp_path: Path, cluster: Any
) -> None:
    process = study("study", "--seeds", "1", "--nodes-per-trial", "2", "--address", cluster.address)
    trial = tmp_path / "study" / "trials" / "a-s0"
    wait_for(lambda: epochs(trial) >= 2, process)
    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    finish(process)
    lines = events(tmp_path / "study")
    (cause,) = (line["cause"] for line in lines if "failed" in line)
    assert cause.startswith("worker lost: ")
    (ended,) = (line["ended"] for line in lines if "ended" in line)
    assert (ended["outcome"], ended["attempts"]) == ("finished", 2)


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_and_is_resumed(
    study: Callable[..., subprocess.Popen[str]], tmp_path: Path, cluster: Any
) -> None:
    words = ("--seeds", "1", "--nodes-per-trial", "2", "--address", cluster.address)
    process = study("study", *words, epochs=60)
    trial = tmp_path / "study" / "trials" / "a-s0"
    wait_for(lambda: epochs(trial) >= 2, process)
    pids = processes(trial)
    assert len(pids) >= 4
    process.kill()
    process.wait()
    begin = time.monotonic()
    wait_for(lambda: not alive(pids), limit=LIMIT)
    print(f"ended after {time.monotonic() - begin:.1f} s")
    first = (trial / "ledger.jsonl").read_bytes().splitlines()[0]
    finish(study("study", *words, epochs=60))
    assert (trial / "ledger.jsonl").read_bytes().splitlines()[0] == first  # it holds the seconds that the epoch took
    assert [line["ended"]["outcome"] for line in events(tmp_path / "study") if "ended" in line] == ["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["agent", "ranks"])
def test_a_frozen_process_does_not_keep_a_trial_from_ending_at_its_time_limit(
    study: Callable[..., subprocess.Popen[str]], tmp_path: Path, cluster: Any, frozen: str
) -> None:
    """The agent stops frozen ranks; ranks end with their agent, which Ray kills if it is frozen."""
    more = ("--seeds", "1", "--nodes-per-trial", "2", "--trial-limit", "60s", "--address", cluster.address)
    process = study("study", *more, epochs=5_000)
    trial = tmp_path / "study" / "trials" / "a-s0"
    wait_for(lambda: epochs(trial) >= 2, process)
    ranks = processes(trial, "log-1.txt")
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    (agent,) = (pid for pid in numbers if "NodeAgent" in title(pid) and ranks <= set(tree(pid)))
    for pid in [agent] if frozen == "agent" else ranks:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: any("failed" in line for line in events(tmp_path / "study")), process)
    begin = time.monotonic()
    wait_for(lambda: not alive(ranks), limit=LIMIT)
    print(f"ended {time.monotonic() - begin:.1f} s after the record")
    process.terminate()
    process.communicate(timeout=TIME_LIMIT)
    (failed,) = (line for line in events(tmp_path / "study") if "failed" in line)
    assert failed["cause"] == "time: not finished after 60 s"
    wait_for(lambda: not running(agent), limit=2 * LIMIT)

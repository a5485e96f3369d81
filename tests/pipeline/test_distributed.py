"""distributed.py: a world of one changes nothing; ranks that die end the command with their name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import distributed

RANKS = """
import os, signal, sys, time
import torch
from pipeline import distributed
from preprocessing import exits

SILENCE = 2.0

def listening():
    # Local addresses, in hexadecimal, that this process listens on.
    sockets = {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in list(open(table))[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                yield columns[1].split(":")[0]

def work(what):
    distributed.join()
    rank = distributed.rank()
    if what == "die" and rank == 1:
        os._exit(9)
    if what == "raise" and rank == 1:
        raise RuntimeError("of rank 1")
    if what == "reject" and rank == 1:
        raise ValueError("no such clip")
    if what == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop" and rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "sleep" and rank == 0:
        time.sleep(600)
    if what == "compute" and rank == 0:
        begin = time.monotonic()
        while time.monotonic() < begin + 2.5 * SILENCE:
            pass
    if what == "hang" and rank == 0:
        time.sleep(600)
    if what == "hang":
        os._exit(9)
    if what == "ports":
        print(f"listens on {sorted(listening())};", flush=True)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    stacked = distributed.stack_over_ranks(x * (rank + 1))
    (stacked * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    three = distributed.total(torch.tensor(1.0 + rank)).item()
    if rank == 0:
        print(stacked.tolist(), x.grad.tolist(), three)
    many = torch.arange(distributed.FEW + 1.0)
    print(torch.equal(distributed.total(many), 2 * many))
    distributed.leave()

if __name__ == "__main__":
    from ranks import work as found_by_name
    try:
        distributed.launch(found_by_name, (sys.argv[1],), 2, SILENCE)
    except distributed.RankDied as error:
        sys.exit(exits.report(error))
"""


def two_ranks(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    """The program above on two ranks."""
    (folder / "ranks.py").write_text(RANKS)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    command = [sys.executable, str(folder / "ranks.py"), what]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}, cwd=folder
    )


def test_alone_every_function_returns_its_argument() -> None:
    """So that callers need no second path."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert distributed.rank() == 0
    assert distributed.world_size() == 1
    assert distributed.total(x) is x
    assert torch.equal(distributed.stack_over_ranks(x), x.unsqueeze(0))
    model = torch.nn.Linear(1, 1)
    assert distributed.wrap(model, torch.device("cpu"), same_buffers=True) is model


def test_stacking_is_exact_and_its_gradient_is_the_sum_over_ranks(tmp_path: Path) -> None:
    """Both ranks use both rows: each x gets the gradient of both losses, twice its weight."""
    result = two_ranks(tmp_path, "work")
    assert result.returncode == 0, result.stderr
    # Loss is sum(stacked * w) on both ranks; rank 0's x stands in row 0: gradient 2 * (1, 10).
    assert "[[1.0, 2.0], [2.0, 4.0]] [2.0, 20.0] 3.0" in result.stdout
    assert result.stdout.count("True") == 2


def test_a_rank_that_dies_ends_the_command_and_is_named(tmp_path: Path) -> None:
    """Within seconds, not after the time-out of a collective."""
    result = two_ranks(tmp_path, "die")
    assert result.returncode == 3
    assert result.stderr == "error: rank 1 ended with exit code 9 without a message\n"


def test_an_error_that_nobody_expected_is_printed_with_its_rank(tmp_path: Path) -> None:
    """Once, and the rank that then loses its connection adds nothing."""
    result = two_ranks(tmp_path, "raise")
    assert result.returncode == 3
    assert result.stderr.startswith("Process rank 1:\nTraceback")
    assert result.stderr.count("Traceback") == 1
    *_, error, _, line = result.stderr.splitlines()
    assert error == "RuntimeError: of rank 1"
    assert line == "error: rank 1 ended with exit code 1; its traceback stands above"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "line"),
    [
        ("reject", 2, "rank 1: no such clip"),
        ("kill", 3, "rank 1 was killed (SIGKILL), perhaps because memory ran out"),
        ("stop", 3, "rank 1 was stopped (SIGSTOP) for 2 s; SIGCONT would continue it"),
        ("sleep", 3, "rank 0 was silent for 2 s (no step, no processor time, no file access) and the others wait"),
    ],
)
def test_one_line_names_the_rank_and_the_first_cause(tmp_path: Path, what: str, code: int, line: str) -> None:
    """An error that is expected, a kill, SIGSTOP, and a rank that waits for something else than its peers."""
    result = two_ranks(tmp_path, what)
    assert result.returncode == code
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_rank_that_computes_longer_than_the_bound_is_waited_for(tmp_path: Path) -> None:
    """As for a compilation; the other rank waits for it in a collective."""
    result = two_ranks(tmp_path, "compute")
    assert result.returncode == 0, result.stderr


def test_ranks_listen_on_loopback_alone(tmp_path: Path) -> None:
    """Neither the launcher nor the ranks open a port to the network."""
    result = two_ranks(tmp_path, "ports")
    assert result.stdout.count("listens on ['0100007F'];") == 2


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_with_the_others(tmp_path: Path) -> None:
    """Rank 0 takes no part in a collective: only the launcher can end it."""
    result = two_ranks(tmp_path, "hang")
    assert "error: rank 1 ended with exit code 9" in result.stderr


@pytest.mark.parametrize(
    ("failed", "times", "root"),
    [
        ({0: -signal.SIGABRT, 1: 9}, {}, 1),  # rank 0 waited for rank 1 in a collective
        ({0: 1, 1: 9}, {0: 1}, 1),  # rank 0 raised the error of a lost connection
        ({0: 1, 1: -signal.SIGKILL}, {0: 1}, 1),
        ({0: 2, 1: 2}, {0: 5, 1: 4}, 1),
        ({0: -signal.SIGABRT, 1: 2}, {1: 7}, 1),
        ({0: 2, 1: -signal.SIGABRT}, {0: 7}, 0),
        ({0: -signal.SIGABRT, 1: -signal.SIGABRT}, {}, 0),
    ],
)
def test_the_rank_that_failed_first_is_named(failed: dict[int, int], times: dict[int, int], root: int) -> None:
    """Dead without a word, then by the time of the error, then those that a collective aborted."""
    assert distributed.root_failure(failed, times) == root


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1", True),
        ("recvValue failed on SocketImpl: Connection reset by peer", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_rank_that_lost_another_one_is_told_from_one_that_failed(message: str, lost: bool) -> None:
    """The launcher of another node knows which rank failed first."""
    words = {"time": 1, "message": message, "traceback": "Traceback"}
    assert ("rank 3 lost the connection to another rank" in str(distributed._death({3: 1}, {3: words}))) is lost


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_a_launcher_is_known_by_both_of_its_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """One variable alone (of a batch system, for example) does not make a launcher."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(variable, "1")
    assert not distributed.launched()


@pytest.mark.parametrize("same_buffers", [True, False])
def test_buffers_are_sent_only_where_ranks_compute_other_ones(
    same_buffers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of DistributedDataParallel on a CPU and on a GPU."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **more: asked.update(more) or model)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for device, ids in ((torch.device("cpu"), None), (torch.device("cuda", 1), [1])):
        distributed.wrap(torch.nn.Linear(1, 1), device, same_buffers)
        assert asked == {
            "device_ids": ids, "forward_sync_buffers": not same_buffers, "gradient_as_bucket_view": True,
        }  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [(5, 5), (6, 6), (7, 7), (2, 2), (8, 8), (9, 3), (1, 3), (-9, 3)])
def test_a_rank_that_reports_a_code_of_ours_passes_it_on(code: int, expected: int) -> None:
    """Any other code means only that a rank died."""
    assert distributed.RankDied("x", code).exit_code == expected

"""launcher.py: ranks that die end the command with their name; it loads no torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import launcher
from tests.pipeline.rank_program import two_ranks


def test_the_launcher_and_the_command_that_uses_it_load_no_torch() -> None:
    """To load it would take a second and a half, before the ranks do so again."""
    program = "import sys; import pipeline.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_a_rank_printed_is_not_lost_at_its_end(tmp_path: Path) -> None:
    """Its output is a pipe here, so Python keeps it until it is flushed."""
    result = two_ranks(tmp_path, "print")
    assert result.returncode == 0, result.stderr
    assert {"not flushed 0", "not flushed 1"} <= set(result.stdout.splitlines())


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0])
def test_ctrl_c_while_ranks_start_is_answered_by_one_line(data_file: Path, tmp_path: Path, seconds: float) -> None:
    """The terminal sends it to all of them, some of which still import modules."""
    words = ["default", "--data", data_file, "--out", tmp_path / "run", "--nproc", "2", "--wandb", "off"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *map(str, words)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(ranks.read_text().split()) < 3 and process.poll() is None:  # two ranks and Python's resource tracker
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "error: interrupted; the same command resumes\n"
    assert process.returncode == 130


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
    assert launcher.root_failure(failed, times) == root


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
    assert ("rank 3 lost the connection to another rank" in str(launcher._death({3: 1}, {3: words}))) is lost


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_a_launcher_is_known_by_both_of_its_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """One variable alone (of a batch system, for example) does not make a launcher."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(variable, "1")
    assert not launcher.launched()


@pytest.mark.parametrize(("code", "expected"), [(5, 5), (6, 6), (7, 7), (2, 2), (8, 8), (9, 3), (1, 3), (-9, 3)])
def test_a_rank_that_reports_a_code_of_ours_passes_it_on(code: int, expected: int) -> None:
    """Any other code means only that a rank died."""
    assert launcher.RankDied("x", code).exit_code == expected

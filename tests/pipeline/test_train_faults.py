"""What ends a training from outside, with one process and with two ranks: one line, the documented exit code, a resume.

Each test asserts that its fault happened; the controls are `test_an_undisturbed_training_ends_with_0` and, for ranks
that wait, tests/pipeline/test_launcher.py.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
QUICK = ["--wandb", "off", "--train.batch-size", "16", "--input.frames", "16", "--train.no-self-test"]

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("ranks", [1, 2])]


def command(data: Path, run: Path, ranks: int, *more: str) -> list[str]:
    """The command as a user types it; 10,000 epochs, unless told otherwise."""
    words = ["default", "--data", str(data), "--out", str(run), "--nproc", str(ranks), "--train.epochs", "10000"]
    return [sys.executable, "-m", "pipeline.train", *words, *QUICK, *more]


def start(words: list[str], **more: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **more)  # type: ignore[call-overload, no-any-return]


def errors(stderr: str) -> list[str]:
    """The lines about errors; a traceback would be one of them. The progress bar writes to stderr, too."""
    lines = stderr.replace("\r", "\n").splitlines()
    return [line for line in lines if "rror" in line or "Traceback" in line or line.startswith("  File")]


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until the first epoch is saved."""
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rank_of(launcher: int, rank: int) -> int:
    """The pid of a rank: multiprocessing starts its resource tracker first, then the ranks in their order."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        ranks = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        if len(ranks) > rank:
            return int(ranks[rank])
    raise AssertionError(f"no rank {rank}")


def gone(group: int) -> bool:
    """Return whether a process group has ended within 5 s; multiprocessing's resource tracker ends last."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(-group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_an_undisturbed_training_ends_with_0(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """The control of all tests here."""
    process = start(command(data_file, tmp_path / "run", ranks, "--train.epochs", "2"))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert errors(stderr) == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("group", [False, True])
def test_a_signal_ends_it_with_one_line(
    data_file: Path, tmp_path: Path, ranks: int, times: int, number: signal.Signals, code: int, group: bool
) -> None:
    """To the command alone or to its whole group, as a terminal and a batch system do; once and twice. It resumes."""
    run = tmp_path / "run"
    process = start(command(data_file, run, ranks), start_new_session=True)
    wait_for_checkpoint(process, run)
    begin = time.monotonic()
    for _ in range(times):
        os.kill(-process.pid if group else process.pid, number)
        time.sleep(0.05)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - begin < 15
    assert process.returncode == code, stderr
    what = "interrupted" if number == signal.SIGINT else "terminated (SIGTERM)"
    assert errors(stderr) == [f"error: {what}; the same command resumes"]
    assert gone(process.pid)
    resumed = start(command(data_file, run, ranks))
    time.sleep(0.1)
    assert resumed.poll() is None
    resumed.send_signal(signal.SIGKILL)
    resumed.communicate()


def test_a_stopped_process_is_named(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """Of two ranks; the terminal tells of one process itself."""
    if ranks == 1:
        pytest.skip("nobody watches one process")
    run = tmp_path / "run"
    process = start(command(data_file, run, ranks, "--rank-timeout", "3"))
    wait_for_checkpoint(process, run)
    os.kill(rank_of(process.pid, 1), signal.SIGSTOP)
    begin = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert 3 < time.monotonic() - begin < 15
    assert process.returncode == 3
    assert errors(stderr) == ["error: rank 1 was stopped (SIGSTOP) for 3 s; SIGCONT would continue it"]


def test_a_killed_rank_is_named(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """As by the system when memory runs out; a single process is killed without a word."""
    run = tmp_path / "run"
    process = start(command(data_file, run, ranks))
    wait_for_checkpoint(process, run)
    os.kill(rank_of(process.pid, 1) if ranks > 1 else process.pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (3 if ranks > 1 else -signal.SIGKILL)
    killed = "error: rank 1 was killed (SIGKILL), perhaps because memory ran out"
    assert errors(stderr) == [killed] * (ranks > 1)


def test_out_of_memory(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """A batch of 40 GB where 6 GB are allowed."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))

    large = ["--train.batch-size", "240", "--input.frames", "100000"]
    process = start(command(data_file, tmp_path / "run", ranks, *large), preexec_fn=limit)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 8, stderr
    (line,) = errors(stderr)
    assert "out of memory (" in line
    assert line.startswith("error: " if ranks == 1 else "error: rank ")


@pytest.mark.parametrize("what", ["data", "run"])
def test_permission_denied(data_file: Path, tmp_path: Path, ranks: int, what: str) -> None:
    """To read the data file, to write into the run folder: they are another user's."""
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("root alone can give files to another user, and setpriv (util-linux) takes root's privileges away")
    data, out = tmp_path / "data.h5", tmp_path / "runs"
    data.write_bytes(data_file.read_bytes())
    data.chmod(0o600 if what == "data" else 0o644)
    out.mkdir()
    out.chmod(0o755 if what == "run" else 0o777)
    for path in (data, out):
        os.chown(path, NOBODY, NOBODY)
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command(data, out / "run", ranks)]
    process = start(plain)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2, stderr
    path = data if what == "data" else out / "run"
    assert errors(stderr) == [
        f"error: permission denied for user 0: {path}. Change its mode or owner, or name another."
    ]


def test_a_full_disk(data_file: Path, small_disk: Callable[[int], Path], ranks: int) -> None:
    """Room for some checkpoints' worth of ledger, not for two checkpoints: the path, what it needs, what is free."""
    folder = small_disk(5000)
    process = start(command(data_file, folder / "run", ranks))
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 7, stderr
    (line,) = errors(stderr)
    assert f"no space left for {folder}/run/checkpoints/epoch-" in line
    assert " MB needed, " in line
    assert " free. Free some space; the same command tries again." in line

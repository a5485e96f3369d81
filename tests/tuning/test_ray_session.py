"""ray_session.py, reaper.py: which variables Ray gets, who is ended with a session, that nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import running
from tuning import ray_session, reaper

SECRETS = (
    "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN",
    "OPENAI_API_KEY", "AZURE_STORAGE_CONNECTION_STRING", "GOOGLE_APPLICATION_CREDENTIALS", "DATABASE_URL", "PASSWORD",
    "RAY_REDIS_PASSWORD", "PYTHON_KEYRING_BACKEND", "TORCH_HUB_TOKEN", "SKELNORM_SECRET", "SSH_AUTH_SOCK", "ANYTHING",
)  # fmt: skip
NEEDED = (
    "PATH",
    "HOME",
    "LC_ALL",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "RAY_AUTH_TOKEN",
    "RAY_USE_TLS",
    "RAY_TLS_SERVER_KEY",
)


def test_ray_gets_the_variables_of_the_list_alone() -> None:
    """Names of secrets are taken out, also where the list has their beginning."""
    given = dict.fromkeys((*SECRETS, *NEEDED), "x")
    assert set(ray_session.allowed(given)) == set(NEEDED)


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Meanwhile processes that are started do not see the rest; before, they do (control)."""
    monkeypatch.setenv("HF_TOKEN", "canary")
    before = dict(os.environ)
    printed = lambda: subprocess.run(["env"], capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert "canary" in printed()
    with ray_session.private_environment(tmp_path / "tmp"):
        assert "canary" not in printed()
        assert f"TMPDIR={tmp_path}/tmp\n" in printed()
    assert dict(os.environ) == before


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ray_session.SessionFolder:
    """A session folder below the test's folder."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    return ray_session.SessionFolder()


def sleeper(output: Path | None = None, read: Path | None = None) -> subprocess.Popen[bytes]:
    """A process whose output goes to a file, or that reads one, and that ignores what would end it politely."""
    with open(output or os.devnull, "wb") as out, open(read or os.devnull, "rb") as file:
        return subprocess.Popen(["sh", "-c", "trap '' TERM INT; exec sleep 60"], stdin=file, stdout=out, stderr=out)


def test_what_is_left_of_a_session_is_ended_and_its_folder_removed(session: ray_session.SessionFolder) -> None:
    """Of this session alone; a process that reads one of its logs (tail -f) goes on."""
    assert session.path.stat().st_mode & 0o777 == 0o700
    log = session.path / "agent.log"
    agent, other = sleeper(output=log), sleeper()
    reader = sleeper(read=log)
    session.remove()
    try:
        assert not session.path.exists()
        assert agent.wait(1) == -signal.SIGKILL
        assert running(other.pid)
        assert running(reader.pid)
    finally:
        for process in (other, reader):
            process.kill()
            process.wait()


def test_a_process_is_found_by_a_log_that_is_not_its_output(tmp_path: Path) -> None:
    """As Ray's agents, whose output goes to a pipe."""
    words = ["sh", "-c", f"exec 7>> {tmp_path}/agent.log; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 10
        while list(reaper.members(str(tmp_path), 0)) != [process.pid]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()


def test_the_driver_is_spared(tmp_path: Path) -> None:
    """Though it may have redirected its own output to a file there."""
    process = sleeper(output=tmp_path / "log")
    assert list(reaper.members(str(tmp_path), 0)) == [process.pid]
    assert list(reaper.members(str(tmp_path), process.pid)) == []
    process.kill()
    process.wait()


KILLED = """
import os, sys
from pathlib import Path
from tuning.ray_session import SessionFolder
session = SessionFolder()
print(session.path, flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_leaves_no_session(tmp_path: Path) -> None:
    """SIGKILL: the process that holds the other end of the pipe removes the folder. Before, it is there (control)."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", KILLED], env=environment, **pipes) as driver:
        folder = Path(driver.stdout.readline().strip())
        assert folder.is_dir()
        driver.kill()
    deadline = time.monotonic() + 15
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("length", "base"), [(20, None), (80, "/tmp")])
def test_session_folders_have_short_paths(monkeypatch: pytest.MonkeyPatch, length: int, base: str | None) -> None:
    """Unless RAY_TMPDIR asks for a place."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(ray_session.tempfile, "gettempdir", lambda: "/" + "x" * length)
    assert ray_session._base() == base

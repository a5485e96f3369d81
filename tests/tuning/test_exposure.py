"""What train, search and study show to others while they run: addresses, variables, files; and what a kill leaves.

The whole tree of processes is looked at, three times per second. Controls: the same search without the switches.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import ANY, LOOPBACK, Watcher, running
from tests.wandb_stub import Stub

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

ROOT = Path(__file__).parents[2]
CANARIES = {
    name: f"canary-of-{name.lower()}"
    for name in (
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY",
        "DATABASE_URL", "MY_PASSWORD",
    )
}  # fmt: skip
TOKEN = "c4" * 32  # of Ray
KEY = "d5" * 20  # of W&B
QUICK = ["--epochs", "2", "--frames", "16"]
COMMANDS = {
    "train": ["-m", "pipeline.train", "default", "--nproc", "2", "--train.epochs", "3", "--train.batch-size", "16"]
    + ["--input.frames", "16", "--train.no-self-test"],
    "search": ["-m", "tuning.search", "--trials", "2", "--ranks-per-trial", "2", *QUICK],
    "study": ["-m", "tuning.study", "--arms", "ARMS", "--seeds", "1", *QUICK],
}
ARMS = 'baseline = "a"\n[arms.a]\nnorm.kind = "none"\n[arms.b]\nnorm.kind = "bn"\n'
# The same search with everything on that we switch off.
OPEN = """
import contextlib, sys
from tuning import ray_session, search
ray_session.LOOPBACK.clear(), ray_session.NO_METRICS.clear()
ray_session.allowed = dict
if __name__ == "__main__":
    sys.exit(search.main())
"""


class Seen(NamedTuple):
    """What a command showed."""

    code: int
    watcher: Watcher
    out: Path
    base: Path


def start(
    data: Path, folder: Path, words: list[str], **more: str | None
) -> tuple[subprocess.Popen[bytes], Watcher, Path, Path]:
    """A command with canaries in its environment, and who watches it."""
    out, base = folder / "out", Path(os.environ["RAY_TMPDIR"]) / "own"  # a short path
    base.mkdir(exist_ok=True)
    (folder / "arms.toml").write_text(ARMS)
    words = [str(folder / "arms.toml") if word == "ARMS" else word for word in words]
    environment = os.environ | CANARIES | {"RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(base)}
    environment = {name: value for name, value in (environment | more).items() if value is not None}
    with open(folder / "printed.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words, "--data", str(data), "--out", str(out)],
            stdout=log, stderr=log, env=environment, cwd=folder,
        )  # fmt: skip
    canaries = tuple(value.encode() for value in (*CANARIES.values(), TOKEN, KEY))
    return process, Watcher(process.pid, canaries, (folder, base)), out, base


def watched(data: Path, folder: Path, words: list[str], **more: str | None) -> Seen:
    """A command to its end, and a last look at what it left."""
    process, watcher, out, base = start(data, folder, words, **more)
    code = process.wait(timeout=400)
    watcher.stop().look()
    assert len(watcher.pids) > 1
    assert len(watcher.read) > 10, (folder / "printed.txt").read_text()
    return Seen(code, watcher, out, base)


@pytest.fixture(scope="module", params=COMMANDS)
def seen(request: pytest.FixtureRequest, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Each command, once."""
    found = watched(data_file, tmp_path_factory.mktemp(request.param), COMMANDS[request.param])
    assert found.code == 0
    return found


def test_every_socket_listens_on_loopback(seen: Seen) -> None:
    """Of the ranks, of Ray's servers, of W&B's service; none has a port of Ray's metrics."""
    assert {address for _, address in seen.watcher.listening} == {LOOPBACK}, seen.watcher.listening
    assert not {44217, 44227} & set(seen.watcher.listening.values())


def test_no_secret_is_written(seen: Seen) -> None:
    """Nowhere: run folder, study, logs, Ray's session, W&B's files, output."""
    assert {word: paths for word, paths in seen.watcher.found.items() if paths} == {}


def test_the_session_is_private_and_gone(seen: Seen) -> None:
    """Mode 0700; no process and no file of it is left."""
    sessions = {name: mode for name, mode in seen.watcher.modes.items() if name.startswith("ray-")}
    assert set(sessions.values()) <= {0o700}
    assert list(seen.base.iterdir()) == []
    assert seen.watcher.gone(15) == []


def test_wandb_gets_no_folders(seen: Seen) -> None:
    """Of the data file and the run the last part alone."""
    files = list(seen.out.glob("wandb/offline-run-*/files/config.yaml"))
    files += list(seen.out.glob("wandb/offline-run-*/*.wandb"))
    assert files
    for file in files:
        configured = file.read_bytes()
        assert b'"data' not in configured or str(seen.out).encode() + b'"' not in configured


ONLINE = {
    "search": ["-m", "tuning.search", "--trials", "1", *QUICK],
    "train-nodes": ["-m", "tuning.train", "default", "--train.epochs", "2", "--input.frames", "16"]
    + ["--train.no-self-test", "--ranks-per-node", "2"],
}


@pytest.mark.parametrize("source", ["variable", "netrc"])
@pytest.mark.parametrize("name", ONLINE)
def test_the_key_of_wandb_reaches_its_server_and_no_file(
    data_file: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stub: Stub, name: str, source: str
) -> None:
    """From WANDB_API_KEY or from netrc; control: every request came with it."""
    home = tmp_path_factory.mktemp("home")
    more = {"WANDB_BASE_URL": stub.url, "HOME": str(home), "WANDB_API_KEY": KEY if source == "variable" else None}
    if source == "netrc":
        (home / ".netrc").write_text(f"machine {stub.url.removeprefix('http://')} login user password {KEY}\n")
        (home / ".netrc").chmod(0o600)
    found = watched(data_file, tmp_path, [*ONLINE[name], "--wandb", "online"], **more)
    printed = (tmp_path / "printed.txt").read_text()
    assert (found.code, stub.complete, "W&B" in printed) == (0, True, False), printed
    assert stub.keys == {KEY}
    assert {word: paths for word, paths in found.watcher.found.items() if paths} == {}
    assert {address for _, address in found.watcher.listening} == {LOOPBACK}, found.watcher.listening


def test_without_the_switches_all_of_it_is_seen(data_file: Path, tmp_path: Path) -> None:
    """Control of the tests above: Ray's servers on all addresses, metrics, a key of AWS in a log."""
    (tmp_path / "driver.py").write_text(OPEN)
    found = watched(data_file, tmp_path, [str(tmp_path / "driver.py"), "--trials", "1", *QUICK])
    assert found.code == 0, (tmp_path / "printed.txt").read_text()
    open_to_all = {process for process, address in found.watcher.listening if address == ANY}
    assert len(open_to_all) > 4
    assert {44217, 44227} & set(found.watcher.listening.values())
    assert found.watcher.found[CANARIES["AWS_SECRET_ACCESS_KEY"].encode()]


# The same search whose reaper only waits.
UNREAPED = """
import subprocess, sys
from tuning import ray_session, search
def start(words, popen=subprocess.Popen, **more):
    reaper = str(words[-3]).endswith("reaper.py")
    return popen([sys.executable, "-c", "import sys; sys.stdin.read()"] if reaper else words, **more)
class Module:
    Popen, DEVNULL, PIPE = staticmethod(start), subprocess.DEVNULL, subprocess.PIPE
ray_session.subprocess = Module
if __name__ == "__main__":
    sys.exit(search.main())
"""


def test_without_the_reaper_processes_outlive_a_killed_driver(data_file: Path, tmp_path: Path) -> None:
    """Negative control of the test below: some are there when all should be gone, and so is the folder."""
    (tmp_path / "driver.py").write_text(UNREAPED)
    words = [str(tmp_path / "driver.py"), "--trials", "4", "--wandb", "off", *QUICK]
    process, watcher, out, base = start(data_file, tmp_path, words)
    deadline = time.monotonic() + 120
    while len(ledger(out)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    watcher.look()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    watcher.stop()
    left = [pid for pid in watcher.pids if running(pid)]
    sessions = list(base.iterdir())
    still = watcher.gone(5)
    for pid in left:  # ours alone: descendants of the driver
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(base)
    assert still
    assert sessions


KILLS, TRIALS = 25, 4


def ledger(out: Path) -> list[dict]:
    """Whole lines of the study's ledger; any line that is not JSON fails the test."""
    path = out / "ledger.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def require_whole(out: Path) -> None:
    """Each trial ended once."""
    ended = Counter(line["ended"]["task"]["name"] for line in ledger(out) if "ended" in line)
    assert ended == {f"{number:04d}": 1 for number in range(TRIALS)}


def test_a_killed_driver_leaves_no_process_and_repeats_no_trial(data_file: Path, tmp_path: Path) -> None:
    """Killed KILLS times at random moments of searches: all processes, Ray's agents too, are gone within 15 s.

    A trial that ended stays as it was; in the end each is done once. Most of the kills meet a running Ray.
    """
    words = ["-m", "tuning.search", "--trials", str(TRIALS), "--wandb", "off", "--grace", "2", *QUICK]
    draw, kills, with_ray, study, waited = random.Random(32), 0, 0, 0, 0.0
    while kills < KILLS:
        folder = tmp_path / str(study)
        folder.mkdir(exist_ok=True)
        process, watcher, out, base = start(data_file, folder, words)
        until_begun = time.monotonic() + 90
        if draw.random() < 0.8:  # from the moment on at which Ray is up and the first trial is suggested
            known = len(ledger(out))
            while process.poll() is None and len(ledger(out)) <= known and time.monotonic() < until_begun:
                time.sleep(0.1)
        time.sleep(draw.uniform(0, 8))
        watcher.look()
        if process.poll() is not None:  # it was done before
            assert process.returncode == 0
            watcher.stop()
            require_whole(out)
            study += 1
            continue
        before = ledger(out)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        began = time.monotonic()
        watcher.stop()
        assert watcher.gone(15) == []
        while list(base.iterdir()):
            assert time.monotonic() < began + 15
            time.sleep(0.1)
        waited = max(waited, time.monotonic() - began)
        kills, with_ray = kills + 1, with_ray + (len(watcher.pids) > 8)
        assert ledger(out)[: len(before)] == before
    process, watcher, out, _ = start(data_file, tmp_path / str(study), words)
    assert process.wait(timeout=400) == 0
    watcher.stop()
    require_whole(out)
    assert with_ray > KILLS / 2
    print(f"{kills} kills, {with_ray} with Ray up, {study + 1} searches; the last process went after {waited:.1f} s")

"""search.py as a user runs it: real Ray on loopback, real offline runs of W&B, a trial that fails."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing.hdf5 import open_file
from tests.conftest import Answer
from tests.wandb_stub import Stub
from tuning import engine
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.search import main
from tuning.space import SPACE

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
TRIALS = 3


def command(data: Path, out: Path, *more: str) -> list[str]:
    """The command as a user types it."""
    return [sys.executable, "-m", "tuning.search", "--data", str(data), "--out", str(out), *more]


def search(data: Path, out: Path, *more: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """The command, from another folder than the project's, with these environment variables (None: without)."""
    wanted = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        command(data, out, *more), capture_output=True, text=True, timeout=300, cwd=data.parent,
        env={name: value for name, value in wanted.items() if value is not None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search."""
    out = tmp_path_factory.mktemp("search") / "study"
    result = search(data_file, out, "--trials", str(TRIALS), "--epochs", "2", "--frames", "16")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{TRIALS} of {TRIALS} trials finished" in result.stdout
    return out


def test_every_trial_is_a_row_best_first(study: Path) -> None:
    """All searched settings, all four accuracies, in JSON and in CSV."""
    rows = json.loads((study / "results.json").read_text())["trials"]
    assert len(rows) == len(list(csv.DictReader((study / "results.csv").open()))) == TRIALS
    assert [row["val"] for row in rows] == sorted((row["val"] for row in rows), reverse=True)
    for row in rows:
        assert set(SPACE) | set("ABCD") | {"val", "train", "normalization_gap"} <= set(row)
        assert (row["error"], row["attempts"]) == ("", 1)
    kept = {path.parent.name for path in study.glob("trials/*/checkpoints")}
    assert kept.isdisjoint(row["trial"] for row in rows if row["outcome"] == "finished"), "--keep was not given"


def test_every_trial_is_a_complete_wandb_run(study: Path) -> None:
    """Fed by the driver, so that no early stop can lose a record; read back with W&B's own reader."""
    files = sorted((study / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == TRIALS
    wandb = Path(sys.executable).with_name("wandb")
    for file in files:
        read = subprocess.run([wandb, "leet", "inspect", "--json", file], capture_output=True, text=True, timeout=60)
        assert '"exit"' in read.stdout.lower() or "exitRecord" in read.stdout, read.stdout[-500:] + read.stderr
        assert "gap/normalization" in read.stdout
        assert '"job_type":"trial"' in read.stdout
        assert f'"run_group":"{study.name}"' in read.stdout


@pytest.mark.slow
def test_settings_without_a_trial_that_finishes_end_with_3(data_file: Path, tmp_path: Path) -> None:
    """Every trial fails: tried twice, recorded with its cause, no traceback of ours."""
    result = search(data_file, tmp_path / "study", "--trials", "1", "--epochs", "1", "--frames", "4", "--wandb", "off")
    assert result.returncode == 3, result.stdout + result.stderr
    (row,) = json.loads((tmp_path / "study" / "results.json").read_text())["trials"]
    assert row["error"].startswith("settings: cnn halves frames")
    assert (row["val"], row["attempts"], row["outcome"]) == (None, 2, "failed")
    assert "Traceback" not in result.stderr


def ended_search(data: Path, out: Path, *outcomes: Outcome) -> tuple[str, ...]:
    """The options of a search of one epoch whose trials have all ended: Ray is not needed to resume it."""
    identity = {"kind": "search", "data_sha256": open_file(data).content_sha256, "seed": 0, "epochs": 1, "frames": 16}
    ledger = StudyLedger(out, identity)
    for outcome in outcomes:
        ledger.end(outcome)
    return "--data", str(data), "--out", str(out), "--trials", str(len(outcomes)), "--epochs", "1", "--frames", "16"


def searched(number: int, kind: str, val: float, outcome: str = "finished") -> Outcome:
    """A trial of one epoch."""
    settings = {"norm.kind": kind, "optim.lr": 0.00123, "norm.persons": "loop"}
    curve = [{"epoch": 1, "val": val} | dict.fromkeys((*"ABCD", "normalization_gap"), 0.5)]
    return Outcome(Task(f"{number:04d}", settings, 0), outcome, curve=curve)


def test_a_search_without_a_finished_trial_ends_with_3(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """A failed trial does not count, although it was evaluated before it failed."""
    result = answer(main, *ended_search(data_file, tmp_path, searched(0, "bn", 0.5, "failed")))
    assert (result.returncode, result.stdout.splitlines()) == (3, [f"0 of 1 trials finished; {tmp_path}/results.json"])


def test_the_best_trials_are_printed_in_their_order(data_file: Path, tmp_path: Path, answer: Answer) -> None:
    """At most five, with their settings; one that was stopped early counts."""
    trials = [("bn", 0.1), ("gn", 0.3), ("ln", 0.5), ("in", 0.2), ("rms", 0.4), ("none", 0.05)]
    outcomes = [
        searched(number, kind, val, "stopped" if kind == "ln" else "finished")
        for number, (kind, val) in enumerate(trials)
    ]
    result = answer(main, *ended_search(data_file, tmp_path, *outcomes))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:] == [
        f"  val {val}.0 %  kind {kind}  lr 0.0012  persons loop"
        for val, kind in ((50, "ln"), (40, "rms"), (30, "gn"), (20, "in"), (10, "bn"))
    ]
    assert result.stderr.startswith("resumed: 6 trials are done, 0 were under way\n")


def lines(out: Path) -> list[dict]:
    """Whole lines of the study's ledger so far."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines(True) if line[-1] == "\n"]
    return []


def wait_for(condition: Callable[[], object], limit: float = 300.0) -> None:
    """Until it holds; the test fails when it never does."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trainings(out: Path) -> list[int]:
    """Pids of this study's trials, and of their ranks, that run now: what they say goes to a log of the study's."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(entry / "fd" / "1").startswith(f"{out}/"):
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_killed_trial_is_tried_again_and_a_killed_driver_repeats_nothing(data_file: Path, tmp_path: Path) -> None:
    """A trial is killed, then the driver; what had ended stays as it was, the rest is done once each."""
    out = tmp_path / "study"
    words = command(
        data_file, out, "--trials", "4", "--epochs", "3", "--grace", "3", "--frames", "16", "--wandb", "off"
    )
    driver = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    wait_for(lambda: trainings(out))
    crashed = trainings(out)[0]
    os.kill(crashed, signal.SIGKILL)
    wait_for(lambda: any("failed" in line for line in lines(out)))
    wait_for(lambda: any("ended" in line for line in lines(out)))
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    before = lines(out)
    wait_for(lambda: not trainings(out), limit=30)  # no orphan goes on

    result = search(data_file, out, *words[7:])
    assert result.returncode == 0, result.stderr
    assert f"resumed: {sum('ended' in line for line in before)} trials are done" in result.stderr
    after = lines(out)
    assert after[: len(before)] == before
    ended = Counter(line["ended"]["task"]["name"] for line in after if "ended" in line)
    assert ended == {f"{number:04d}": 1 for number in range(4)}
    rows = json.loads((out / "results.json").read_text())["trials"]
    assert sorted(row["trial"] for row in rows) == sorted(ended)
    assert max(row["attempts"] for row in rows) == 2
    assert [(row["epoch"], row["error"]) for row in rows] == [(3, "")] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "what"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated (SIGTERM)")],
)
def test_an_interrupted_search_leaves_no_trial_running(
    data_file: Path, tmp_path: Path, number: signal.Signals, code: int, what: str
) -> None:
    """Ctrl-C and SIGTERM: one line; what was under way stays so in the ledger."""
    out = tmp_path / "study"
    words = command(data_file, out, "--trials", "6", "--epochs", "3", "--frames", "16", "--wandb", "off")
    driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    wait_for(lambda: any("ended" in line for line in lines(out)))
    driver.send_signal(number)
    stderr = driver.communicate(timeout=60)[1]
    assert driver.returncode == code
    assert stderr.strip().endswith(f"error: {what}; the same command resumes it")
    assert "Traceback" not in stderr
    wait_for(lambda: not trainings(out), limit=30)
    assert sum("begun" in line for line in lines(out)) > sum("ended" in line for line in lines(out))


SWALLOWED = """
import os, signal, sys
from pathlib import Path
from tuning.engine import Resources, run_all

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass  # where Python handles signals: here what is raised is swallowed

class Source:
    def next(self):
        Finalized()
        print("went on", flush=True)

if __name__ == "__main__":
    try:
        run_all(Source(), Path(sys.argv[1]), Resources(1, 0, None), None)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.slow
def test_an_interrupt_that_a_finalizer_swallows_still_ends_the_search(tmp_path: Path) -> None:
    """Ray's objects have finalizers, and Ctrl-C comes when it comes."""
    (tmp_path / "driver.py").write_text(SWALLOWED)
    result = subprocess.run(
        [sys.executable, tmp_path / "driver.py", tmp_path], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Exception ignored in" in result.stderr
    assert result.stdout.splitlines() == ["went on", "interrupted"], result.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--trials", "0"], "--trials 0 is too small: must be at least 1"),
        (["--wandb", "maybe"], "maybe"),
        (["--budget", "2"], "--budget '2' is an invalid duration"),
        (["--address", "127.0.0.1:9"], "no Ray cluster at 127.0.0.1:9"),
        (["--trails", "3"], "--trials"),
    ],
)
def test_a_mistake_gets_a_message_and_no_traceback(
    data_file: Path, tmp_path: Path, more: list[str], words: str, answer: Answer
) -> None:
    """Exit 2."""
    result = answer(main, "--data", data_file, "--out", tmp_path / "study", *more)
    assert result.returncode == 2
    assert words in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_cluster_that_is_gone_is_not_waited_for(data_file: Path, tmp_path: Path, cluster_gone: int) -> None:
    """Ray's file still names it. Without --address a search runs on this machine all the same.

    In a process of its own: Ray remembers the clusters that earlier tests of this one had found.
    """
    sizes = ("--trials", "1", "--epochs", "1", "--frames", "16")
    asked = search(data_file, tmp_path / "study", *sizes, "--address", "auto")
    assert asked.returncode == 2
    assert re.search(rf"no Ray cluster at auto \(\S+:{cluster_gone}: ", asked.stderr)
    result = search(data_file, tmp_path / "study", *sizes, "--wandb", "off")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ok", "hang", 500])
def test_an_online_search_does_not_wait_for_its_server(
    data_file: Path, tmp_path: Path, stub: Stub, mode: str | int
) -> None:
    """One that hangs or fails costs one line and half a minute; every trial is recorded on disk (`ok`: control)."""
    stub.mode, out = mode, tmp_path / "study"
    sizes = ("--trials", "1", "--epochs", "2", "--frames", "16", "--wandb", "online")
    begin = time.monotonic()
    result = search(data_file, out, *sizes, WANDB_BASE_URL=stub.url, WANDB_API_KEY="0" * 40)
    assert result.returncode == 0, result.stderr
    assert "1 of 1 trials finished" in result.stdout
    reports = [line for line in result.stderr.splitlines() if line.startswith("W&B")]
    if mode == "ok":
        assert (reports, stub.complete) == ([], True)
        return
    assert time.monotonic() - begin < 180
    (line,) = reports
    assert f"Recorded on disk; send it later: wandb sync {out / 'wandb'}/offline-run-*" in line
    assert len(list((out / "wandb").glob("offline-run-*/*.wandb"))) == 1


def torn_ray_state(folder: Path) -> None:
    """What a kill can leave of Ray's own state: empty, cut, and not JSON."""
    (folder / "tuner.pkl").write_bytes(b"")
    (folder / "experiment_state-2026-01-01_00-00-00.json").write_text('{"trial_data": [["{')
    (folder / "searcher-state-2026.pkl").write_bytes(b"\x80\x05\x95")


@pytest.mark.slow
def test_a_torn_state_of_ray_changes_nothing(data_file: Path, tmp_path: Path) -> None:
    """The driver is killed at a named line; the ledger alone says what is left, and no trial is done twice."""
    out, sizes = tmp_path / "study", ("--trials", "3", "--epochs", "1", "--frames", "16", "--wandb", "off")
    killed = search(data_file, out, *sizes, SKELNORM_FAULT_AT="line appended:5")
    assert killed.returncode == -signal.SIGKILL
    lines = (out / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 5
    ended = [line for line in lines if "ended" in line]
    assert not [path for path in out.rglob("*") if path.suffix == ".pkl" or path.name.startswith("experiment_state")]
    for folder in (out, out / "trials"):
        torn_ray_state(folder)
    result = search(data_file, out, *sizes)
    assert result.returncode == 0, result.stderr
    assert "3 of 3 trials finished" in result.stdout
    after = (out / "ledger.jsonl").read_text().splitlines()
    assert after[:5] == lines
    names = Counter(json.loads(line)["ended"]["task"]["name"] for line in after if "ended" in json.loads(line))
    assert names == {"0000": 1, "0001": 1, "0002": 1}
    assert f"resumed: {len([line for line in ended if json.loads(line).get('ended')])} trials are done" in result.stderr


@pytest.mark.slow
def test_ray_alone_cannot_restore_a_torn_state(tmp_path: Path) -> None:
    """Negative control: restored from the same files, a search would be lost."""
    from ray import tune

    torn_ray_state(tmp_path)
    with pytest.raises((EOFError, ValueError, RuntimeError, OSError)):
        tune.Tuner.restore(str(tmp_path), trainable=lambda config: None)


@pytest.mark.slow
def test_ray_needs_no_short_scratch_folder(data_file: Path, tmp_path: Path) -> None:
    """Paths of sockets are short, TMPDIR of a batch system is long. RAY_TMPDIR is the user's to shorten."""
    scratch = tmp_path / ("a_job_of_a_batch_system" * 4)
    scratch.mkdir()
    sizes = ("--trials", "1", "--epochs", "1", "--frames", "16", "--wandb", "off")
    result = search(data_file, tmp_path / "study", *sizes, TMPDIR=str(scratch), RAY_TMPDIR=None)
    assert result.returncode == 0, result.stderr
    result = search(data_file, tmp_path / "other", *sizes, RAY_TMPDIR=str(scratch))
    assert result.returncode == 2
    assert "set RAY_TMPDIR to a folder with a short path" in result.stderr


def test_an_address_in_the_environment_that_is_not_used_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a job was submitted without --address auto."""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # else the other tests would get what this one sets
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.setattr(engine, "_start", lambda *_: None)
    with engine.connected(None):
        pass
    assert "RAY_ADDRESS=head:6379 is not used: trials run on this machine" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named_with_the_remedy(tmp_path: Path, answer: Answer) -> None:
    """Before Ray is started."""
    result = answer(main, "--data", tmp_path / "none.h5", "--out", tmp_path / "study")
    assert result.returncode == 2
    text = " ".join(result.stderr.replace("│", " ").split())  # the box breaks lines where the path is long
    assert "build it with python -m preprocessing.build" in text


@pytest.mark.slow
def test_a_search_is_confirmed_and_its_best_settings_train(data_file: Path, tmp_path: Path) -> None:
    """From a preset, in a space of one's own; the command that it prints works as it stands."""
    (tmp_path / "space.toml").write_text('[norm.kind]\nvalues = ["gn", "bn"]\n[optim.lr]\nlow = 1e-3\nhigh = 1e-2\n')
    more = ("--preset", "demo", "--model", "cnn", "--space", str(tmp_path / "space.toml"), "--confirm", "2")
    done = search(data_file, tmp_path / "study", "--trials", "2", "--epochs", "2", "--frames", "16", *more)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [row["n"] for row in results["confirmed"]] == [3, 3]
    assert results["confirmed"][0]["val"] >= results["confirmed"][1]["val"]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
    words = line.removeprefix("next: python ").split()
    again = subprocess.run(
        [sys.executable, *words, "--wandb", "off"], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs" / "best" / "summary.json").is_file()

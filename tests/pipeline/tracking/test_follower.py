"""follower.py: W&B gets all that the ledger has, holds no secret, and cannot slow, stop or kill a training."""

import getpass
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import follower, ledger, metric_names
from pipeline.tracking.follower import Follower, follow_training, last_id, record_diagnosis
from pipeline.tracking.ledger import RunLedger
from tests.pipeline.tracking.test_metric_names import ANSWER, EPOCH, SUMMARY
from tests.wandb_stub import Stub

ROOT = Path(__file__).parents[3]
KEY = "hunter2hunter2hunter2hunter2hunter2hunt2"
# Trains two epochs as the trainer does. It stops at the given epoch, prints the follower's pid, and waits for a line.
CLIENT = """
import json, sys, time
from pathlib import Path
from pipeline.tracking import follower, ledger
follower.START, follower.FINISH, follower.LIMIT = 3, 3, int(sys.argv[3])
run, (first, second), summary = Path(sys.argv[1]), *json.loads(sys.argv[4])
writer = ledger.RunLedger(run, 0)
follow = follower.follow_training(run, sys.argv[2], 0)
writer.write(first)
print(follow.process.pid if follow.process else 0, flush=True)
sys.stdin.readline()
writer.write(second)
(run / "summary.json").write_text(json.dumps(summary))
print("trained", flush=True)
begin = time.monotonic()
follow.finish()
print(time.monotonic() - begin)
"""
SAMPLED = 20.0  # seconds, after which W&B has measured the machine at least once
SECOND = EPOCH | {"epoch": 2, "train": {"top1": 0.75, "loss": 1.25}}
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
ENVIRONMENT = CLEAN | {"PYTHONPATH": str(ROOT), "NETRC": "/nowhere", "PRIVATE": f"{KEY}-private"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the files that a training has when it starts."""
    folder = tmp_path / "study" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "epoch-0001.pt").write_bytes(b"weights")
    (folder / "checkpoint.json").write_text(json.dumps({"file": "epoch-0001.pt", "sha256": "ab", "epoch": 1}))
    metadata = {"dataset": "d", "recipe": {}, "class_names": ["jump", "sit"], "content_sha256": "0123456789abcdef" * 4}
    (folder / "data.json").write_text(json.dumps(metadata))
    (folder / "config.json").write_text(json.dumps({"lr": 0.5}))
    return folder


def client(
    run: Path, mode: str, between: Callable[[int], object] = lambda pid: None, limit: int = 60, **more: str
) -> tuple[str, float]:
    """Return what a training prints about W&B and the seconds its end takes; `between` gets the follower's pid."""
    words = [sys.executable, "-c", CLIENT, str(run), mode, str(limit), json.dumps([[EPOCH, SECOND], SUMMARY])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*words, f"--token={KEY}-argument"], text=True, env=ENVIRONMENT | more, **pipes
    ) as process:  # fmt: skip
        assert process.stdout is not None
        between(int(process.stdout.readline()))
        out, err = process.communicate("\n", timeout=100)
    assert process.returncode == 0, err
    # Whatever became of W&B: the ledger is whole, and nothing secret is in any file.
    assert ledger.read(run) == [EPOCH, SECOND]
    everything = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert KEY.encode() not in everything
    assert b"--token" not in everything
    trained, seconds = out.split()
    assert trained == "trained"
    return err, float(seconds)


def records(run: Path) -> list[dict[str, Any]]:
    """The one W&B run in `run`, read with W&B's own reader."""
    (file,) = run.glob("wandb/*run-*/*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    words = [str(wandb), "leet", "inspect", "--json", str(file)]
    read = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(record) for record in read.stdout.splitlines()]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The contents of the records of a kind."""
    return [record[kind] for record in found if record["type"] == kind]


def assert_complete(run: Path) -> None:
    """The run on disk has both epochs, the final figures, matrix, model and data, and an end."""
    found = records(run)
    steps = [history["step"]["num"] for history in of_kind(found, "history") if "train/loss" in json.dumps(history)]
    assert steps == [1, 2]
    text = json.dumps(found)
    for name in ("train/loss", "gap/normalization", "test/loss", "0123456789abcdef", "model-run", "confusion_matrix"):
        assert name in text, name
    assert of_kind(found, "exit")


def wait_for(condition: Callable[[], object], limit: float = 60.0) -> None:
    """Until it holds; the test fails when it never does."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_offline_run_has_figures_matrix_and_model(run: Path) -> None:
    """Names, group, job type, settings; the data by its hash and facts, the checkpoint as what was made of it."""
    message, _ = client(run, "offline")
    assert message == ""
    assert_complete(run)
    found = records(run)
    (about, *_) = of_kind(found, "run")
    assert (about["job_type"], about["run_group"], about["display_name"]) == ("train", "study", "run")
    assert about["config"]["update"]["lr"] == 0.5
    assert about["host"] in ("", None) if "host" in about else True
    (model,) = (artifact for artifact in of_kind(found, "artifact") if artifact["type"] == "model")
    assert model["name"] == "model-run"
    assert "checkpoint.pt" in json.dumps(model)
    text = json.dumps(found)
    assert '"content_sha256"' in text.replace("\\", "")
    for name in ("val/top1", "final/gap/normalization"):
        assert name in text, name
    tables = [json.loads(path.read_text()) for path in run.glob("wandb/offline-run-*/files/media/table/*.json")]
    assert len(tables) == 2
    assert any(["jump", "sit", 1] in table["data"] for table in tables), "the chart's"
    assert any(table["data"] == [["jump", 3, 1], ["sit", 0, 4]] for table in tables), "one row per class"
    (picture,) = run.glob("wandb/offline-run-*/files/media/html/confusion_picture*.html")
    assert 'title="jump: 25 % as sit"' in picture.read_text()
    assert "<script" not in picture.read_text()


def test_tags_notes_and_what_the_summary_keeps(run: Path) -> None:
    """The settings' short words, the command, and for each metric the best of its epochs."""
    settings = {
        "norm": {"kind": "bn", "persons": "loop"}, "model": {"name": "cnn"}, "data": "/home/me/clips.h5",
        "input": {"protocol": "x" * 80, "stream": "joint"},
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(settings))
    (run / "provenance.json").write_text(json.dumps({"command": "python -m pipeline.train demo", "skelnorm": "0.1.0"}))
    client(run, "offline")
    found = records(run)
    (about, *_) = of_kind(found, "run")
    assert about["tags"] == ["cnn", "bn", "loop", "x" * 64, "joint"]
    assert about["notes"] == "python -m pipeline.train demo"
    assert about["config"]["update"]["provenance"]["skelnorm"] == "0.1.0"
    assert "/home" not in json.dumps(about["config"])
    kept = {one["name"]: one.get("summary", {}) for one in of_kind(found, "metric") if "name" in one}
    assert {name for name, kind in kept.items() if kind.get("max")} == {"val/top1", "train/top1"}
    assert {name for name, kind in kept.items() if kind.get("min")} == {"train/loss", "val/loss"}
    assert not of_kind(found, "stats"), "the use of the machine is recorded on demand only"


@pytest.mark.slow
def test_the_use_of_the_machine_is_recorded_on_demand(run: Path) -> None:
    """Without the names of machine and user; W&B takes the first sample after some seconds."""
    client(run, "offline", lambda _: time.sleep(SAMPLED), SKELNORM_WANDB_SYSTEM="1")
    found = records(run)
    assert any("cpu" in json.dumps(stats) for stats in of_kind(found, "stats"))
    text = json.dumps(found)
    assert not re.search(rf"(?<!\w){re.escape(platform.node())}(?!\w)", text)  # a short name may be part of an ID
    assert getpass.getuser() not in json.dumps(of_kind(found, "environment"))


def test_a_large_checkpoint_is_recorded_by_its_hash_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is not in the artifact."""
    with (run / "checkpoints" / "epoch-0001.pt").open("wb") as file:
        file.truncate(200_000_001)
    client(run, "offline")
    (model,) = (artifact for artifact in of_kind(records(run), "artifact") if artifact["type"] == "model")
    assert "checkpoint.pt" not in json.dumps(model)
    assert '"checkpoint_sha256":"ab"' in json.dumps(model).replace("\\", "").replace(" ", "")


def test_off_starts_no_process(run: Path) -> None:
    client(run, "off", lambda pid: pid == 0)
    assert not (run / "wandb").exists()


def test_online_the_server_gets_all_of_it(run: Path, stub: Stub) -> None:
    """Rows under stable names while the training goes on, the artifacts with their lineage, the end."""
    message, _ = client(
        run, "online", lambda pid: wait_for(lambda: stub.rows), WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY
    )
    assert message == ""
    rows = [row for row in stub.rows if "train/loss" in row]
    assert [(row["epoch"], row["_step"], row["train/loss"], row["val/top1"]) for row in rows] == [
        (1, 1, 1.5, 0.3),
        (2, 2, 1.25, 0.3),
    ]
    assert stub.complete
    upsert = stub.variables["UpsertBucket"][0]
    assert (upsert["groupName"], upsert["jobType"], upsert["host"]) == ("study", "train", None)
    made = {entry["input"]["artifactTypeName"] for entry in stub.variables["CreateArtifact"]}
    assert {"dataset", "model"} <= made
    assert "UseArtifact" in stub.asked
    assert not list(run.glob("wandb/offline-run-*"))


def test_the_key_may_be_in_netrc(run: Path, stub: Stub, tmp_path: Path) -> None:
    """Nowhere else, and it is used."""
    (tmp_path / "netrc").write_text(f"machine {stub.url.removeprefix('http://')} login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    message, _ = client(run, "online", WANDB_BASE_URL=stub.url, NETRC=str(tmp_path / "netrc"))
    assert stub.complete, message


@pytest.mark.parametrize(
    ("mode", "key", "reason"),
    [
        (401, KEY, "returned error 401"),
        (500, KEY, "HTTP 500"),
        ("hang", KEY, "context deadline exceeded"),
        ("ok", "", "No API key configured"),
        ("none", KEY, "connection refused"),
    ],
)
def test_a_server_of_no_use_costs_one_message_and_the_run_is_recorded_on_disk(
    run: Path, stub: Stub, mode: str | int, key: str, reason: str
) -> None:
    """With the reason and the remedy. The training does not wait: both epochs may be done before W&B has started."""
    stub.mode = mode
    url = "http://127.0.0.1:9" if mode == "none" else stub.url
    message, _ = client(run, "online", WANDB_BASE_URL=url, WANDB_API_KEY=key)
    (line,) = message.splitlines()
    assert reason in line
    assert f"wandb sync {run / 'wandb'}/offline-run-*" in line
    assert_complete(run)
    assert stub.rows == []


@pytest.mark.parametrize("mode", ["hang", 500])
def test_a_server_that_fails_later_does_not_hold_up_the_training(run: Path, stub: Stub, mode: str | int) -> None:
    """Records that it missed are on disk, with all that it had."""

    def between(pid: int) -> None:
        wait_for(lambda: stub.rows)
        stub.mode = mode

    environment = {"WANDB_BASE_URL": stub.url, "WANDB_API_KEY": KEY, "WANDB_HTTP_TIMEOUT": "2"}
    message, seconds = client(run, "online", between, **environment)
    (line,) = message.splitlines()
    assert f"wandb sync {run / 'wandb'}/offline-run-*" in line
    assert seconds < 20
    assert_complete(run)


@pytest.mark.parametrize("moment", ["at once", "while it records", "stopped"])
def test_a_follower_that_is_killed_or_hangs_costs_nothing(run: Path, stub: Stub, moment: str) -> None:
    """The training goes on and ends; then another follower records all of it on disk."""

    def between(pid: int) -> None:
        if moment != "at once":
            wait_for(lambda: stub.rows)
        os.kill(pid, signal.SIGSTOP if moment == "stopped" else signal.SIGKILL)

    limit = 5 if moment == "stopped" else 60
    message, _ = client(run, "online", between, limit, WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY)
    (line,) = message.splitlines()
    state = "not done in 5 s" if moment == "stopped" else "signal 9"
    assert line.startswith(f"W&B: its process ended early ({state}). Recorded on disk; send it later: wandb sync ")
    assert_complete(run)


def test_a_training_that_is_killed_leaves_no_follower(run: Path) -> None:
    """Records of the ledger up to then are sent, as a crashed run."""
    seen: list[int] = []

    def between(pid: int) -> None:
        seen.append(pid)
        with open(f"/proc/{pid}/stat") as file:
            os.kill(int(file.read().split()[3]), signal.SIGKILL)

    with pytest.raises((AssertionError, ValueError)):
        client(run, "offline", between)
    wait_for(lambda: not Path(f"/proc/{seen[0]}").exists())
    (end,) = of_kind(records(run), "exit")
    assert end["exit_code"] == 1
    assert len(of_kind(records(run), "history")) == 1


def test_wandb_that_cannot_write_is_off_with_one_message(run: Path) -> None:
    (run / "wandb").write_text("a file")
    message, _ = client(run, "offline", limit=60)
    (line,) = message.splitlines()
    assert line.startswith("W&B is off for this run (")
    assert line.endswith("the ledger has every figure.")


def test_a_process_that_cannot_start_is_one_message(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    follow_training(run, "offline", 0).finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B is off for this run ([Errno 2] No such file or directory")


def test_a_resumed_training_keeps_its_id_and_sends_new_epochs_only(run: Path) -> None:
    """One W&B run per training; another training has another, and a diagnosis between them does not count."""
    assert last_id(run) is None
    for done in (0, 1):
        writer, follow = RunLedger(run, done), follow_training(run, "offline", done)
        writer.write(EPOCH | {"epoch": done + 1})
        follow.finish()
        (run / "doctor.json").write_text(json.dumps(ANSWER))
        record_diagnosis(run, "offline")
    trainings = sorted(run.glob("wandb/offline-run-*-????????"))
    first, second = trainings
    assert first.name[-8:] == second.name[-8:] == last_id(run)
    assert len(list(run.glob("wandb/offline-run-*-doctor*"))) == 2
    shutil.rmtree(first)
    for folder in run.glob("wandb/offline-run-*-doctor*"):
        shutil.rmtree(folder)
    assert [history["step"]["num"] for history in of_kind(records(run), "history")] == [2]
    follow_training(run, "offline", 0).finish()
    assert len({folder.name[-8:] for folder in run.glob("wandb/offline-run-*")}) == 2


def test_the_doctors_answer_is_a_run_with_a_table(run: Path) -> None:
    """Beside the training's, of job type doctor."""
    (run / "doctor.json").write_text(json.dumps(ANSWER))
    record_diagnosis(run, "offline")
    found = records(run)
    (about, *_) = of_kind(found, "run")
    assert (about["job_type"], about["run_group"], about["display_name"]) == ("doctor", "study", "run")
    assert (about["tags"], about["notes"]) == (["doctor", "reuse"], "norms.0 is called twice.")
    (table,) = run.glob("wandb/offline-run-*/files/media/table/doctor/*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == list(metric_names.VERDICT)
    assert written["data"] == [
        ["cause", "reuse", 1.0, 0.1, 0.9, "twice", "masked"],
        ["suspicion", "decay", None, None, None, "decayed", "do not"],
    ]
    assert "norm/norms.0/mean_shift" in json.dumps(of_kind(found, "summary"))


def test_the_follower_loads_neither_torch_nor_the_data() -> None:
    """It costs a training as little memory and time as can be; wandb itself is loaded when a run starts."""
    words = "import sys, pipeline.tracking.follower_process, tuning.wandb_follower; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", words], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert not {"torch", "wandb", "ray", "h5py", "numba"} & set(result.stdout.split())


def test_the_parent_does_not_wait_for_a_follower(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped one takes no input; starting it, writing epochs and ending it take no answer of its."""
    monkeypatch.setattr(follower, "LIMIT", 0.5)
    writer, follow = RunLedger(run, 0), Follower("timeit", ["-n", "1", "-r", "1", "while True: pass"], run, "offline")
    assert follow.process is not None
    os.kill(follow.process.pid, signal.SIGSTOP)
    for epoch in range(1, 200):
        writer.write(EPOCH | {"epoch": epoch})
    process = follow.process
    follow.finish()
    assert process.returncode == -signal.SIGKILL
    assert len(ledger.read(run)) == 199

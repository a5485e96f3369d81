"""report.py: the ledger survives a kill; W&B gets all of it, is never fatal or slow, and holds no secret."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import metric_names, report, server
from pipeline.tracking.ledger import read
from pipeline.tracking.report import Ledger, start_wandb
from tests.pipeline.tracking.test_metric_names import ANSWER, EPOCH, SUMMARY
from tests.wandb_stub import Stub


def line(epoch: int) -> dict:
    """One epoch's figures."""
    return {"epoch": epoch, "train": {"top1": 0.5}}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """As a kill in mid-write leaves it."""
    ledger = Ledger(tmp_path, {}, "off", 0)
    ledger.write(line(1))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"epoch": 2, "tr')
    assert read(tmp_path) == [line(1)]


def test_epochs_that_will_be_trained_again_are_not_kept_twice(tmp_path: Path) -> None:
    """The ledger was ahead of the checkpoint when the run was killed."""
    ledger = Ledger(tmp_path, {}, "off", 0)
    for epoch in (1, 2, 3):
        ledger.write(line(epoch))
    Ledger(tmp_path, {}, "off", 2).write(line(3))
    assert [entry["epoch"] for entry in read(tmp_path)] == [1, 2, 3]


KEY = "hunter2hunter2hunter2hunter2hunter2hunt2"
# Trains one epoch as the trainer reports it, with so many seconds of patience with the server; a run on disk has no
# server, and none is needed.
CLIENT = f"""
import sys, time
from pathlib import Path
from pipeline.tracking import report, server
server.PROBE, report.START, report.FINISH = 1, 3, int(sys.argv[3])
ledger = report.Ledger(Path(sys.argv[1]), {{"lr": 0.5}}, sys.argv[2], 0)
ledger.write({EPOCH})
print("logged", flush=True)
sys.stdin.readline()
begin = time.monotonic()
ledger.close({SUMMARY})
print(time.monotonic() - begin)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with what W&B is told of: a data file's card and a checkpoint."""
    folder = tmp_path / "study" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "epoch-0001.pt").write_bytes(b"weights")
    (folder / "checkpoint.json").write_text(json.dumps({"file": "epoch-0001.pt", "sha256": "ab", "epoch": 1}))
    card = {"dataset": "d", "recipe": {}, "class_names": ["jump", "sit"], "content_sha256": "0123456789abcdef" * 4}
    (folder / "data.json").write_text(json.dumps(card))
    return folder


def client(
    run: Path, mode: str, between: Callable[[], None] = lambda: None, patience: int = 2, **more: str
) -> tuple[str, float]:
    """What a training says to the user on W&B's account, and the seconds that its end takes."""
    root = Path(__file__).parents[3]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = clean | {"PYTHONPATH": str(root), "NETRC": "/nowhere", "PRIVATE": f"{KEY}-private"} | more
    words = [sys.executable, "-c", CLIENT, str(run), mode, str(patience), f"--token={KEY}-argument"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, text=True, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "logged\n"
        between()
        out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    # Whatever became of W&B: the ledger is whole, and nothing secret is in any file.
    assert read(run) == [EPOCH]
    everything = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert KEY.encode() not in everything
    assert b"--token" not in everything
    return err, float(out)


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


def test_an_offline_run_read_back_has_figures_matrix_and_lineage(run: Path) -> None:
    """Names, group, job type; the data by its hash alone, the checkpoint as what was made of it; an end."""
    said, _ = client(run, "offline", patience=0)
    assert said == ""
    found = records(run)
    (about, *_) = of_kind(found, "run")
    assert (about["job_type"], about["run_group"], about["display_name"]) == ("train", "study", "run")
    assert about["config"]["update"]["lr"] == 0.5
    (history, *_) = of_kind(found, "history")
    assert json.dumps(history).count("normalization") == 1
    data, model = (
        [artifact for artifact in of_kind(found, "artifact") if artifact["type"] == kind]
        for kind in ("dataset", "model")
    )
    assert data[0]["name"] == "data-0123456789abcdef"
    assert data[0]["use_after_commit"]
    assert "contents" not in json.dumps(data[0].get("manifest", {}))
    assert model[0]["name"] == "model-run"
    assert "checkpoint.pt" in json.dumps(model[0])
    text = json.dumps(found)
    assert "confusion_matrix" in text
    for name in ("train/loss", "train/top1", "val/top1", "gap/normalization", "test/top1", "final/gap/normalization"):
        assert name in text, name
    assert of_kind(found, "exit")
    (table,) = run.glob("wandb/offline-run-*/files/media/table/*.json")
    assert ["jump", "sit", 1] in json.loads(table.read_text())["data"]


def test_online_the_server_gets_all_of_it(run: Path, stub: Stub) -> None:
    """Rows under stable names, the artifacts with their lineage, the end; no word to the user."""
    said, _ = client(run, "online", patience=30, WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY)
    assert "Recorded here" not in said
    (row,) = [row for row in stub.rows if "train/loss" in row]
    assert (row["epoch"], row["train/loss"], row["val/top1"], row["gap/normalization"]) == (1, 1.5, 0.3, 0.1)
    assert stub.complete
    upsert = stub.variables["UpsertBucket"][0]
    assert (upsert["groupName"], upsert["jobType"], upsert["host"]) == ("study", "train", None)
    made = {entry["input"]["artifactTypeName"] for entry in stub.variables["CreateArtifact"]}
    assert {"dataset", "model"} <= made
    assert "UseArtifact" in stub.asked


def test_the_key_may_be_in_netrc(run: Path, stub: Stub, tmp_path: Path) -> None:
    """Nowhere else, and it is used."""
    (tmp_path / "netrc").write_text(f"machine {stub.url.removeprefix('http://')} login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    said, _ = client(run, "online", patience=30, WANDB_BASE_URL=stub.url, NETRC=str(tmp_path / "netrc"))
    assert stub.complete, said


@pytest.mark.parametrize(
    ("mode", "key", "reason"),
    [
        (401, KEY, "refused the key (401)"),
        (500, KEY, "answered 500"),
        ("hang", KEY, "gave no answer in 1 s"),
        ("ok", "", "no key in WANDB_API_KEY or netrc"),
        ("none", KEY, "no connection to http://127.0.0.1:9 ([Errno 111] Connection refused)"),
    ],
)
def test_a_server_of_no_use_costs_one_message_and_the_run_is_recorded_here(
    run: Path, stub: Stub, mode: str | int, key: str, reason: str
) -> None:
    """With the reason and the remedy; the offline run is complete."""
    stub.mode = mode
    url = "http://127.0.0.1:9" if mode == "none" else stub.url
    said, seconds = client(run, "online", WANDB_BASE_URL=url, WANDB_API_KEY=key)
    (message,) = said.splitlines()
    assert reason in message
    assert f"wandb sync {run / 'wandb'}/offline-run-*" in message
    assert of_kind(records(run), "exit")
    assert seconds < 5
    assert stub.rows == []


@pytest.mark.parametrize("mode", ["hang", 500])
def test_a_server_that_fails_later_does_not_hold_up_the_end(run: Path, stub: Stub, mode: str | int) -> None:
    """After all that was asked of it at the start was answered. What it missed is on disk, anew."""
    said, seconds = client(
        run, "online", lambda: setattr(stub, "mode", mode), WANDB_BASE_URL=stub.url, WANDB_API_KEY=KEY
    )
    (message,) = said.splitlines()
    assert f"{stub.url} did not take all in 2 s" in message
    assert f"wandb sync {run / 'wandb'}/offline-run-*" in message
    assert seconds < 12
    found = records(run)
    text = json.dumps(found)
    for name in ("train/loss", "gap/normalization", "test/top1", "data-0123456789abcdef", "model-run", "confusion"):
        assert name in text, name
    assert of_kind(found, "exit")


def test_a_search_is_held_up_once_not_once_a_trial(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first refusal is remembered."""
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(report, "_REFUSED", [])
    monkeypatch.setattr(server, "PROBE", 1)
    stub.mode = "hang"
    begin = time.monotonic()
    for trial in range(4):
        start_wandb(tmp_path, str(trial), {}, "online", "trial", "study").finish({})
    assert capsys.readouterr().err.count("Recorded here") == 1
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 4
    assert stub.asked == []
    assert time.monotonic() - begin < 15


def test_a_search_whose_server_hangs_keeps_the_figures_of_all_its_trials(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials under way when one ends: both are on disk, before and after."""
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(report, "_REFUSED", [])
    monkeypatch.setattr(report, "FINISH", 2)
    one, two = (start_wandb(tmp_path / name, name, {}, "online", "trial", "study") for name in ("one", "two"))
    for tracker in (one, two):
        tracker.log({"epoch": 1, "val": 0.25})
    stub.mode = "hang"
    one.finish({"val/top1": 0.25})
    two.log({"epoch": 2, "val": 0.75})
    two.finish({"val/top1": 0.75})
    assert [len(of_kind(records(tmp_path / name), "history")) for name in ("one", "two")] == [1, 2]


def test_a_resumed_training_goes_on_under_its_id(tmp_path: Path) -> None:
    """One run a training; another training has another."""
    assert report.last_id(tmp_path) is None
    Ledger(tmp_path, {}, "offline", 0).close({})
    first = report.last_id(tmp_path)
    Ledger(tmp_path, {}, "offline", 1).close({})
    assert report.last_id(tmp_path) == first
    Ledger(tmp_path, {}, "offline", 0).close({})
    assert {folder.name.rpartition("-")[2] for folder in tmp_path.glob("wandb/offline-run-*")} > {first}


def test_the_doctors_answer_is_a_run_with_a_table(run: Path) -> None:
    """Beside the training's, of job type doctor."""
    report.record_diagnosis(run, ANSWER, "offline")
    found = records(run)
    (about, *_) = of_kind(found, "run")
    assert (about["job_type"], about["run_group"], about["display_name"]) == ("doctor", "study", "run")
    (table,) = run.glob("wandb/offline-run-*/files/media/table/doctor/*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == list(metric_names.VERDICT)
    assert written["data"] == [
        ["cause", "reuse", 1.0, 0.1, 0.9, "twice", "masked"],
        ["suspicion", "decay", None, None, None, "decayed", "do not"],
    ]
    assert "norm/norms.0/mean_shift" in json.dumps(of_kind(found, "summary"))


def test_the_doctors_command_records_its_verdict(runs: Path, tmp_path: Path) -> None:
    """When asked to; otherwise nothing is left."""
    folder = shutil.copytree(runs / "bn-loop", tmp_path / "runs" / "bn-loop")
    words = [sys.executable, "-m", "pipeline.doctor", str(folder), "--split", "test"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(words, check=True, timeout=120, env=environment)
    assert not (folder / "wandb").exists()
    subprocess.run([*words, "--wandb", "offline"], check=True, timeout=120, env=environment)
    text = json.dumps(records(folder))
    assert '"job_type": "doctor"' in text
    assert "norm/norms.0.0/mean_shift" in text
    assert json.loads((folder / "doctor.json").read_text())["verdict"][:40] in text


def test_a_ledgers_lines_are_json(tmp_path: Path) -> None:
    """One object a line."""
    Ledger(tmp_path, {}, "off", 0).write(line(1))
    assert json.loads((tmp_path / "ledger.jsonl").read_text()) == line(1)

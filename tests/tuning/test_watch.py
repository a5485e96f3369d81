"""watch: trials from a study's ledger, and the command with a real training in a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocessing import journal
from preprocessing.pages import Provenance
from tests.browser import opened
from tests.conftest import Answer
from tuning import watch
from tuning.ledger import Outcome, StudyLedger, Task

FOOTER = Provenance("c", "", "", "d")
ROOT = Path(__file__).parents[2]
LINE = {
    "epoch": 2, "train": {"top1": 0.5, "loss": 1.0}, "accuracies": {"A": 0.4, "B": 0.5, "C": 0.3, "D": 0.4},
    "gap": {"normalization": 0.1, "generalization": 0.1}, "seconds": 1.0, "clips_per_second": 9.0,
}  # fmt: skip
POINT = {"epoch": 2, "val": 0.6, "train": 0.9, "A": 0.5, "B": 0.9, "C": 0.6, "D": 0.7, "normalization_gap": 0.4}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with a trial that ended, one that failed, and one under way, whose first attempt failed."""
    folder = tmp_path / "<study>"
    ledger = StudyLedger(folder, {"kind": "search", "epochs": 4})
    tasks = [Task(f"000{n}", {"norm.kind": "bn", "optim.lr": 0.00123}, n, arm="") for n in range(3)]
    for task in tasks:
        ledger.begin(task)
    ledger.end(Outcome(tasks[0], "finished", curve=[POINT]))
    ledger.fail(tasks[1], "memory: <b>")
    ledger.end(Outcome(tasks[1], "failed", cause="memory: <b>"))
    ledger.fail(tasks[2], "killed: by signal 9")
    run = folder / "trials" / "0002"
    run.mkdir(parents=True)
    (run / "ledger.jsonl").write_text(json.dumps(LINE) + "\n")
    return folder


def test_trials_are_read_from_both_ledgers(study: Path) -> None:
    ended, failed, running = watch.trials_of(study, journal.read(study / watch.NAME)[1:])
    assert [trial["state"] for trial in (ended, failed, running)] == ["finished", "failed", "running"]
    assert ended["curve"] == [POINT]
    assert (running["curve"][0]["epoch"], running["curve"][0]["val"]) == (2, 0.3)
    assert watch.warnings([ended, failed, running]) == [
        "0002: attempt 1 failed (killed: by signal 9); it is tried again."
    ]
    assert [trial["name"] for trial in watch.ranked([failed, running, ended])] == ["0000", "0002"]
    assert [box.figure for box in watch.boxes([running, ended])] == ["60.0 %", "30.0 %"]
    first, second = watch.curves([ended, failed, running]).series
    assert (first.name, first.dashed, first.points) == ("0002, running", True, ((2, 30),))
    assert (second.name, second.dashed) == ("0000, finished", False)
    table = watch.table([ended, failed, running])
    assert [row.cells[:3] for row in table.rows] == [
        ("0000", "finished", 2), ("0002", "running", 2), ("0001", "failed", None),
    ]  # fmt: skip
    assert table.rows[0].cells[-1] == "kind bn, lr 0.0012"


def test_the_page_over_a_study(study: Path) -> None:
    text = watch.study_page(study, FOOTER)
    assert "1 running, 1 finished, 1 failed" in text
    assert "0001: memory: &lt;b&gt; (1 attempts)" in text
    assert "<study>" not in text
    assert [path.parent.name for path in watch.study_files(study)] == ["<study>", "0002"]
    empty = study.parent / "new"
    StudyLedger(empty, {"kind": "study", "epochs": 4})
    assert "waiting for the first trial" in watch.study_page(empty, FOOTER)


def test_the_page_follows_what_the_folder_is(study: Path, tmp_path: Path) -> None:
    assert watch.is_study(study)
    assert b"search, up to 4 epochs per trial" in watch.source(study, FOOTER).page()[0]
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ValueError, match=r"run is neither a run folder \(no config.json\) nor a study folder"):
        watch.source(run, FOOTER)
    (run / "ledger.jsonl").write_text(json.dumps(LINE) + "\n")
    assert not watch.is_study(run)


def test_a_mistake_gets_one_line(answer: Answer, tmp_path: Path, study: Path) -> None:
    result = answer(watch.main, tmp_path / "none")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "name the --out of a train, search or study command" in result.stderr
    result = answer(watch.main, study, "--port", 70000)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --port 70000 is outside [0, 65535]")


def test_watching_loads_neither_torch_nor_ray() -> None:
    words = "import sys, tuning.watch; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "wandb", "optuna"} & set(result.stdout.split())


def wait_for(condition: Callable[[], object], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_browser_sees_a_training_grow_and_start_again(data_file: Path, tmp_path: Path) -> None:
    """Without a reload; over a kill and a restart of the training; the server ends on Ctrl-C with exit code 0."""
    run = tmp_path / "run"
    train = [
        sys.executable, "-m", "pipeline.train", "default", "--data", str(data_file), "--out", str(run),
        "--input.frames", "64", "--train.epochs", "400", "--train.eval-every", "1", "--train.batch-size", "8",
        "--wandb", "off", "--train.no-self-test",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    training = subprocess.Popen(train, **quiet)
    processes = [training]
    try:
        wait_for(lambda: (run / "ledger.jsonl").is_file() and (run / "ledger.jsonl").stat().st_size)
        command = [sys.executable, "-m", "tuning.watch", str(run)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(server)
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        with opened(address, tmp_path) as page:

            def points() -> int:
                return int(page("document.querySelector('[data-part=plots] figure').querySelectorAll('circle').length"))

            def epoch() -> int:
                found = re.match(
                    r"epoch (\d+) of 400", page("document.querySelector('[data-part=state]')?.textContent ?? ''")
                )
                return int(found.group(1)) if found else 0

            wait_for(epoch)
            page("window.same = true")
            first, drawn = epoch(), points()
            wait_for(lambda: epoch() >= first + 3 and points() >= drawn + 12)
            assert page("window.same") is True, "the page was not loaded again"
            training.kill()
            training.wait()
            killed = epoch()
            processes.append(subprocess.Popen(train, **quiet))
            wait_for(lambda: epoch() >= killed + 2)
            assert page("window.same") is True
            assert page("document.getElementById('lost').hidden") is True
            server.send_signal(signal.SIGINT)
            assert server.wait(10) == 0
            assert server.stdout.read().endswith("stopped\n")
            wait_for(lambda: page("document.getElementById('lost').hidden") is False)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(run, ignore_errors=True)

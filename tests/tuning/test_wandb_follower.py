"""wandb_follower.py: one W&B run per trial, live from the trial's ledger, at its end from the study's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.pipeline.tracking.test_metric_names import EPOCH
from tuning.attempt import epoch_metrics
from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.wandb_follower import Trials


def task(name: str) -> Task:
    return Task(name, {"norm.kind": "bn"}, seed=3, arm="plain")


def train(study: Path, name: str, *epochs: int) -> None:
    """Write a trial's ledger; epochs below 0 were not evaluated."""
    (study / "trials" / name).mkdir(parents=True, exist_ok=True)
    with (study / "trials" / name / "ledger.jsonl").open("a") as file:
        for epoch in epochs:
            line = EPOCH | {"epoch": abs(epoch)}
            file.write(json.dumps(line if epoch > 0 else {"epoch": -epoch, "train": line["train"]}) + "\n")


def curve(*epochs: int) -> list[dict[str, Any]]:
    return [epoch_metrics(EPOCH | {"epoch": epoch}) for epoch in epochs]


def test_a_trial_has_the_epochs_of_its_ledger_then_those_of_its_outcome(tmp_path: Path) -> None:
    ledger, trials = StudyLedger(tmp_path / "study", {}), Trials(tmp_path / "study", 0)
    ledger.begin(task("a"))
    assert trials() == []  # no figures yet
    train(tmp_path / "study", "a", -1, 2)
    (trial,) = trials()
    assert (trial.name, trial.group, trial.key) == ("a", "study", "00002")
    assert trial.config == {"norm.kind": "bn", "train.seed": 3, "arm": "plain"}
    assert trial.rows() == curve(2)
    assert [trial.ended(stopped) for stopped in (False, True)] == [False, True]
    ledger.end(Outcome(task("a"), "stopped", curve=curve(2, 4)))
    assert trials() == [trial]
    assert trial.rows() == curve(2, 4)
    assert trial.ended(stopped=False)
    last = trial.conclude(None)  # type: ignore[arg-type]
    assert (last["epoch"], last["final/val/top1"], last["final/gap/normalization"]) == (4, 0.3, 0.1)


def test_trials_that_ended_under_an_earlier_command_are_left_out(tmp_path: Path) -> None:
    """The one that was under way goes on."""
    ledger = StudyLedger(tmp_path, {})
    for name in "ab":
        ledger.begin(task(name))
        train(tmp_path, name, 1)
    ledger.end(Outcome(task("a"), "finished", curve=curve(1)))
    done = 4
    ledger.end(Outcome(task("b"), "finished", curve=curve(1, 2)))
    assert [(trial.name, len(trial.rows())) for trial in Trials(tmp_path, done)()] == [("b", 2)]
    assert [trial.name for trial in Trials(tmp_path, 0)()] == ["a", "b"]


def test_every_trial_is_a_complete_wandb_run(tmp_path: Path) -> None:
    """Of one process; read back with W&B's own reader. A trial under way when the driver ends has what it had."""
    study = tmp_path / "study"
    ledger = StudyLedger(study, {})
    with ProgressReporter(study, "search", 3, 0, "offline") as reporter:
        for name in "abc":
            ledger.begin(task(name))
            train(study, name, 1, 2)
        for name in "ab":
            outcome = Outcome(task(name), "finished", curve=curve(1, 2))
            ledger.end(outcome)
            reporter.on_end(outcome)
    files = sorted((study / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 3
    names = set()
    for file in files:
        words = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
        read = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
        found = [json.loads(line) for line in read.stdout.splitlines()]
        (about,) = {
            (record["run"]["display_name"], record["run"]["job_type"], record["run"]["run_group"])
            for record in found
            if record["type"] == "run"
        }
        names.add(about[0])
        assert about[1:] == ("trial", "study")
        assert [record["history"]["step"]["num"] for record in found if record["type"] == "history"] == [1, 2]
        assert [record["exit"].get("exit_code", 0) for record in found if record["type"] == "exit"] == [0]
    assert names == set("abc")

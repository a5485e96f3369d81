"""dashboard.py: the workspace as JSON, with every axis of the space; without a server, one line."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from pipeline.tracking.metric_names import (
    GRADIENT_NORM,
    OF_TRIALS,
    RATE,
    TRAIN_LOSS,
    VAL_LOSS,
    last,
    named,
)
from tests.conftest import Answer
from tests.wandb_stub import Stub
from tuning.attempt import epoch_metrics
from tuning.dashboard import main
from tuning.space import SPACE

KEY = "0" * 40

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed: make setup")


def dashboard(*more: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command without any key."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    words = [sys.executable, "-m", "tuning.dashboard", "--entity", "us", "--project", "skelnorm", *map(str, more)]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=120, env=clean | {"NETRC": "/nowhere"} | environment
    )


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The file that is written without a server."""
    path = tmp_path_factory.mktemp("dashboard") / "workspace.json"
    result = dashboard("--spec", path)
    assert result.returncode == 0, result.stderr
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def panels(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The settings of every panel of a kind."""
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel["config"] for section in sections for panel in section["panels"] if panel["viewType"] == kind]


def test_parallel_coordinates_go_through_every_setting_that_is_searched(spec: dict[str, Any]) -> None:
    """And end in the gaps and the accuracy."""
    (plot,) = panels(spec, "Parallel Coordinates Plot")
    axes = [column["accessor"] for column in plot["columns"]]
    for name in SPACE:
        assert sum(name in axis.replace(".value", "") for axis in axes) >= 1, (name, axes)
    assert axes[-1] == "summary:final/val/top1"
    row = {"epoch": 1, "val": 0.5, "normalization_gap": 0.0, "generalization_gap": 0.0}
    assert {axis.removeprefix("summary:") for axis in axes if axis.startswith("summary:")} <= set(last(row))


def test_curves_are_of_figures_that_trials_send(spec: dict[str, Any]) -> None:
    """All four accuracies and both gaps, over epochs."""
    drawn = {name for plot in panels(spec, "Run History Line Plot") for name in plot["metrics"]}
    line = {
        "epoch": 1,
        "train": {"top1": 0.5, "loss": 1.0},
        "accuracies": dict.fromkeys("ABCD", 0.5),
        "gap": {"normalization": 0.0, "generalization": 0.0},
        "norm": {"norms.0.0": {"mean_shift": 0.5}},
        "val": {"loss": 1.0},
        "optim": {"lr": 0.1, "gradient_norm": 1.0},
        "clips_per_second": 1.0,
    }
    sent_by_trials, sent_by_trainings = set(named(epoch_metrics(line))), set(named(line))
    of_trainings = {TRAIN_LOSS, VAL_LOSS, RATE, GRADIENT_NORM, "throughput/clips_per_second"}
    assert drawn == {*OF_TRIALS.values(), *of_trainings} - {"train/top1"}
    assert drawn <= sent_by_trainings
    (regex,) = {plot["metricRegex"] for plot in panels(spec, "Run History Line Plot") if plot.get("useMetricRegex")}
    assert [name for name in sent_by_trainings if re.fullmatch(regex, name)] == ["norm/norms.0.0/mean_shift"]
    assert drawn - of_trainings <= sent_by_trials
    assert {plot["xAxis"] for plot in panels(spec, "Run History Line Plot")} == {"epoch"}


def test_importance_is_for_accuracy_and_for_the_gap(spec: dict[str, Any]) -> None:
    """The two that the project is about."""
    targets = [p["targetKey"] for p in panels(spec, "Parameter Importance")]
    assert targets == ["final/val/top1", "final/gap/normalization"]


def test_the_test_split_is_shown_by_seed_and_by_arm_and_the_doctor_has_a_panel(spec: dict[str, Any]) -> None:
    scatter = panels(spec, "Scatter Plot")
    assert ("config:train.value.seed", "summary:test/top1") in [(one["xAxis"], one["yAxis"]) for one in scatter]
    text = json.dumps(spec)
    assert "doctor/verdict" in text
    assert "confusion_picture" in text


def test_the_same_workspace_twice_is_the_same_file(spec: dict[str, Any]) -> None:
    """So that it can be kept under version control."""
    from tuning.dashboard import spec as spec_of
    from tuning.dashboard import workspace

    assert json.loads(json.dumps(spec_of(workspace("us", "skelnorm")))) == spec


@pytest.mark.parametrize(
    ("server", "key", "words"),
    [
        ("ok", "", "No API key configured"),
        ("none", KEY, "http://127.0.0.1:9: no answer in 5 s"),
        ("401", KEY, "returned error 401"),
        ("500", KEY, "no answer in 5 s"),
        ("hang", KEY, "no answer in 5 s"),
    ],
)
def test_without_a_server_one_line_names_the_remedy(
    server: str, key: str, words: str, stub: Stub, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2, and W&B's client, which can wait for minutes, is never started."""
    stub.mode = int(server) if server.isdigit() else server
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9" if server == "none" else stub.url)
    result = answer(main, "--entity", "us")
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in result.stderr
    assert "--spec FILE" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert KEY not in result.stderr + result.stdout


def test_a_server_that_rejects_the_workspace_gives_the_same_line(stub: Stub) -> None:
    """The stub knows who asks and no more; W&B's client has been started, and the command ends all the same."""
    result = dashboard(WANDB_API_KEY=KEY, WANDB_BASE_URL=stub.url)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "UpsertView2" in stub.asked
    assert "W&B rejected the workspace" in result.stderr
    assert "--spec FILE" in result.stderr
    assert "Traceback" not in result.stderr
    assert KEY not in result.stderr + result.stdout

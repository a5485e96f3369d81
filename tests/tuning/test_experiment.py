"""experiment.py: settings that a search and a study share, old option names, the specification of a trial."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_file
from tuning import experiment
from tuning.engine import Resources
from tuning.experiment import Experiment, duration_seconds
from tuning.ledger import Task
from tuning.search import Search
from tuning.study import Study
from tuning.trial_spec import TrialSpec


def test_durations_have_a_unit() -> None:
    """Empty: none."""
    found = [duration_seconds(text, "--budget") for text in ("", "90s", "30m", "1.5h", "2 h")]
    assert found == [None, 90, 1800, 5400, 7200]


@pytest.mark.parametrize("text", ["2", "h", "0s", "-1s", "1d", "1h30m"])
def test_an_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"--budget '.*' is an invalid duration: write it as 90s, 30m or 2h\."):
        duration_seconds(text, "--budget")


@pytest.mark.parametrize(
    ("cls", "words", "expected"),
    [
        (Search, ["--cpus-per-worker", "2"], {"cpus_per_rank": 2}),
        (Search, ["--workers-per-trial=3", "--gpus-per-trial", "3"], {"ranks_per_trial": 3}),
        (Study, ["--arms", "norms", "--cpus_per_worker", "2"], {"cpus_per_rank": 2}),
        (Study, ["--arms", "norms", "--gpus-per-worker", "0.5"], {"gpus_per_rank": 0.5}),
    ],
)
def test_old_option_names_work(
    cls: type[Experiment], words: list[str], expected: dict[str, Any], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank was called a worker."""
    monkeypatch.setattr(sys, "argv", ["prog", "--data", str(data_file), "--out", "out", *words])
    parsed = experiment.parse(cls, "")
    assert {name: getattr(parsed, name) for name in expected} == expected


def test_results_keep_the_keys_of_older_versions(tmp_path: Path) -> None:
    """results.json has a setting under its old key too; the page shows it once."""
    search = Search(write_file(tmp_path / "a.h5", clips=24), tmp_path / "study", cpus_per_rank=3)
    assert search.recorded_command == search.command | {
        "cpus_per_worker": "3",
        "workers_per_trial": search.command["ranks_per_trial"],
    }
    assert "cpus_per_worker" not in search.command


def test_help_speaks_of_ranks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The old names are not shown."""
    monkeypatch.setattr(sys, "argv", ["prog", "--help"])
    for cls in (Search, Study):
        with pytest.raises(SystemExit):
            experiment.parse(cls, "")
        text = capsys.readouterr().out
        assert "--cpus-per-rank INT >= 1" in text
        assert "worker" not in text


@pytest.mark.parametrize(
    ("cls", "more", "message"),
    [
        (Search, {"trials": 0}, "--trials 0 is too small: must be at least 1"),
        (Search, {"grace": 0}, "--grace 0 is too small: must be at least 1"),
        (Search, {"ranks_per_trial": 0}, "--ranks-per-trial 0 is too small"),
        (Search, {"gpus_per_trial": -1.0}, "--gpus-per-trial -1.0 is too small: must be at least 0"),
        (Search, {"trial_memory": -1.0}, "--trial-memory -1.0 is too small"),
        (Search, {"gpus_per_trial": 1.5, "ranks_per_trial": 2}, "ranks cannot share a GPU"),
        (Search, {"budget": "2"}, "--budget '2' is an invalid duration"),
        (Study, {"arms": "norms", "seeds": 0}, "--seeds 0 is too small"),
        (Study, {"arms": "norms", "epochs": 0}, "--epochs 0 is too small"),
        (Study, {"arms": "norms", "eval_every": 0}, "--eval-every 0 is too small"),
        (Study, {"arms": "norms", "gpus_per_rank": -0.5}, "--gpus-per-rank -0.5 is too small"),
        (
            Study,
            {"arms": "norms", "lr": (1e-3,), "grace": 21, "epochs": 20},
            "--grace 21 is too large",
        ),
        (Study, {"arms": "norms", "grace": 2}, "--grace needs --lr or --screen"),
        (Study, {"arms": "norms", "at_once": -1}, "--at-once -1 is too small"),
        (Study, {"arms": "norms", "cpus_per_rank": 0}, "--cpus-per-rank 0 is too small"),
        (Study, {"arms": "norms", "trial_limit": "2"}, "--trial-limit '2' is an invalid duration"),
        (Study, {"arms": "norms", "wandb": "maybe"}, "--wandb 'maybe' is unknown"),
    ],
)
def test_values_out_of_range_are_rejected(
    cls: type[Experiment], more: dict[str, Any], message: str, data_file: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        cls(data_file, Path("out"), **more)


def test_a_gpu_per_rank_or_none_is_accepted(data_file: Path) -> None:
    """The limits of the check above."""
    for gpus in (0.0, 2.0, 4.0):
        Search(data_file, Path("out"), gpus_per_trial=gpus, ranks_per_trial=2)


def test_a_search_never_reads_the_test_split_and_is_evaluated_each_epoch(data_file: Path) -> None:
    """The task's own settings win over the shared ones."""
    settings = Search(data_file, Path("out"), epochs=7, frames=16, cpus_per_rank=2, trial_memory=1.5, keep=True)
    spec = settings.spec(Task("0000", {"norm.kind": "gn", "input.frames": 8}, seed=3, ranks=2))
    assert spec.settings == {
        "data": str(data_file.resolve()), "fast_start": True, "input.frames": 8, "train.epochs": 7,
        "train.self_test": False, "train.seed": 3, "nproc": 2, "train.eval_every": 1, "norm.kind": "gn",
    }  # fmt: skip
    assert spec == TrialSpec(spec.settings, False, (), threads=2, memory=1.5, keep=True)
    assert spec.ranks == 2


def test_a_study_reads_the_test_split_and_passes_re_evaluations_on(data_file: Path) -> None:
    settings = Study(data_file, Path("out"), arms="norms", eval_every=4, frames=16)
    spec = settings.spec(Task("a-s0", {}, seed=1, re_evaluations=("joint",)))
    assert spec == TrialSpec(spec.settings, True, ("joint",), threads=1, memory=0.0, keep=False)
    assert (spec.settings["train.eval_every"], spec.settings["train.epochs"], spec.ranks) == (4, Study.epochs, 1)


def test_resources_are_per_rank_and_the_limit_is_in_seconds(data_file: Path) -> None:
    study = Study(data_file, Path("out"), arms="norms", cpus_per_rank=3, gpus_per_rank=0.5, trial_limit="2m", at_once=4)
    assert study.resources() == Resources(3, 0.5, 120.0, 4)
    search = Search(data_file, Path("out"), gpus_per_trial=4, ranks_per_trial=2)
    assert search.resources() == Resources(1, 2.0, None, 0)


def test_a_spec_survives_json_and_order_json_of_older_versions_is_read() -> None:
    """`keep` is new in the file."""
    spec = TrialSpec({"nproc": 2}, True, ("joint", "per_call"), threads=2, memory=0.5, keep=True)
    for one in (spec, TrialSpec({})):
        assert TrialSpec.from_json(one.to_json()) == one
    old = {"settings": {"norm.kind": "bn"}, "test": True, "variants": ["momentum_0"], "threads": 1, "memory": 0.0}
    assert TrialSpec.from_json(old) == TrialSpec({"norm.kind": "bn"}, True, ("momentum_0",))
    assert TrialSpec.from_json(old).ranks == 1
    assert spec.to_json().keys() == {*old, "keep"}


def test_a_missing_data_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.h5 does not exist; build it with python -m preprocessing\.build"):
        Search(tmp_path / "none.h5", tmp_path)

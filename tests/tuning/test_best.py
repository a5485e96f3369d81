"""The end of a search: best.toml is a preset, and a confirmed ranking goes by new seeds."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse
from tuning.best import confirmed_rows, write_best
from tuning.ledger import Outcome, Task
from tuning.search import Search


def ended(name: str, val: float, seed: int = 0, arm: str = "", **settings: Any) -> Outcome:
    drawn = {"norm.kind": "gn", "norm.groups": 4, "train.batch_size": 16} | settings
    return Outcome(Task(name, drawn, seed, arm), "finished", curve=[{"epoch": 2, "val": val}])


def test_best_toml_is_the_preset_of_the_best_trial(data_file: Path, tmp_path: Path) -> None:
    """With the data, so that it can be typed as it is printed; a trial's own needs are left out."""
    settings = Search(data_file, tmp_path / "study", epochs=3, frames=16, preset="sbu")
    write_best(settings, [ended("0000", 0.5), ended("0001", 0.75, **{"norm.groups": 8})])
    text = (tmp_path / "study" / "best.toml").read_text()
    assert text.startswith("# Trial 0001 of the search study. Val accuracy: 75.0 %, the best of 2 trials, so partly")
    config = parse([str(tmp_path / "study" / "best.toml"), "--out", str(tmp_path / "run")])
    assert (config.data, config.norm.groups, config.input.frames) == (data_file, 8, 16)
    assert (config.train.epochs, config.train.self_test, config.train.eval_every) == (3, True, 100)
    assert (config.input.stream, config.augment.mirror) == ("pair", 0.5), "of the preset"


def test_nothing_is_written_where_every_trial_failed(data_file: Path, tmp_path: Path) -> None:
    write_best(Search(data_file, tmp_path / "study"), [Outcome(Task("0000", {}, 0), "failed")])
    assert not (tmp_path / "study").exists()


def test_the_confirmed_ranking_goes_by_new_seeds(data_file: Path, tmp_path: Path) -> None:
    best = [ended("0001", 0.75), ended("0000", 0.5), ended("0002", 0.4)]
    again = [
        ended(f"{name}-s{seed}", val, seed, name) for name, val in (("0001", 0.4), ("0000", 0.6)) for seed in (1, 2)
    ]
    again.append(Outcome(Task("0002-s1", {}, 1, "0002"), "failed"))
    rows = confirmed_rows(best, again)
    assert [(row["trial"], row["n"], row["val"], row["searched"]) for row in rows] == [
        ("0000", 2, 0.6, 0.5), ("0001", 2, 0.4, 0.75), ("0002", 0, None, 0.4),
    ]  # fmt: skip
    assert rows[0]["seeds"] == {"1": 0.6, "2": 0.6}
    write_best(Search(data_file, tmp_path / "study"), best, rows)
    assert (
        (tmp_path / "study" / "best.toml")
        .read_text()
        .startswith("# Trial 0000 of the search study. Confirmed val accuracy: 60.0 ± 0.0 % (2 new seeds).")
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"preset": "sbuu"}, "no preset 'sbuu' (did you mean sbu?)"),
        ({"model": "cn"}, "'cn' is unknown; choose one of "),
        ({"space": Path("no.toml")}, "--space no.toml does not exist: must be a TOML file."),
        ({"confirm": -1}, "--confirm -1 is too small: must be at least 0"),
    ],
)
def test_a_mistake_in_what_trials_share_is_named(more: dict[str, Any], message: str, data_file: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        Search(data_file, Path("study"), **more)
    assert message in str(caught.value)


def test_trials_start_from_the_preset_and_the_model(data_file: Path) -> None:
    """--frames of the preset unless it is given; a resumed search must have the same."""
    settings = Search(data_file, Path("study"), preset="sbu", model="hcn")
    spec = settings.spec(Task("0000", {"norm.kind": "gn"}, 0)).settings
    assert (spec["model.name"], spec["input.frames"], spec["input.stream"]) == ("hcn", 32, "pair")
    assert spec["train.epochs"] == 20
    assert settings.identity["base"]["model.name"] == "hcn"
    assert Search(data_file, Path("study")).identity == {"seed": 0, "epochs": 20, "frames": 64}

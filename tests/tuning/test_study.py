"""study.py as a user runs it, its arms and variants: resumed, paired, the question's momentum 0 shown to be nothing."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config import from_dict
from tests.conftest import Answer
from tests.pipeline.conftest import trained_run
from tuning import re_evaluations
from tuning.arms import ARMS, Arms, flat, read_arms
from tuning.space import nested
from tuning.study import list_tasks, main

ROOT = Path(__file__).parents[2]
MINE = """
baseline = "loop"
common.train.batch_size = 16
[arms.loop]
norm.kind = "bn"
norm.persons = "loop"
norm.momentum = 0.01
[arms."no norm"]
norm.kind = "none"
[arms."momentum 0"]
of = "loop"
variant = "momentum_0"
[arms."per call"]
of = "loop"
re_evaluation = "per_call"
"""


def study(data: Path, out: Path, arms: object, *more: str, timeout: int = 400) -> subprocess.CompletedProcess[str]:
    """The command."""
    words = [sys.executable, "-m", "tuning.study", "--data", data, "--out", out, "--arms", arms, "--wandb", "off"]
    return subprocess.run(
        [*map(str, words), *more], capture_output=True, text=True, timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one seed, then the same with two."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "mine.toml").write_text(MINE)
    sizes = ("--epochs", "3", "--frames", "16", "--eval-every", "3")
    for seeds in ("1", "2"):
        result = study(data_file, folder / "out", folder / "mine.toml", "--seeds", seeds, *sizes)
        assert result.returncode == 0, result.stderr
        (folder / f"ledger{seeds}").write_bytes((folder / "out" / "ledger.jsonl").read_bytes())
    assert "resumed: 2 trials are done" in result.stderr
    return folder


def test_more_seeds_are_added_and_none_is_repeated(finished: Path) -> None:
    """What stood in the ledger stands there still."""
    one, two = ((finished / f"ledger{seeds}").read_bytes() for seeds in "12")
    assert two.startswith(one)
    ended = [json.loads(line)["ended"]["task"]["name"] for line in two.splitlines() if line.startswith(b'{"ended')]
    assert sorted(ended) == ["loop-s0", "loop-s1", "no-norm-s0", "no-norm-s1"]


def test_every_arm_has_its_row_and_every_trial_its_line(finished: Path) -> None:
    """Test accuracy of each, effects against the loop; momentum 0 changes nothing, bit for bit."""
    document = json.loads((finished / "out" / "results.json").read_text())
    arms = {row["arm"]: row for row in document["arms"]}
    assert (document["judged"], document["baseline"]) == ("test", "loop")
    assert {row["n"] for row in arms.values()} == {2}
    assert arms["momentum 0"]["identical"]
    assert (arms["momentum 0"]["effect"], arms["momentum 0"]["p"]) == (0.0, 1.0)
    assert not arms["per call"]["identical"]
    assert arms["per call"]["B"] == arms["loop"]["B"]
    rows = list(csv.DictReader((finished / "out" / "results.csv").open()))
    assert len(rows) == 8
    assert all(0 <= float(row["test"]) <= 1 for row in rows)


def test_a_study_of_other_arms_does_not_mix_with_it(data_file: Path, finished: Path, answer: Answer) -> None:
    """One line that names what differs."""
    result = answer(main, "--data", data_file, "--out", finished / "out", "--arms", "persons", "--wandb", "off")
    assert result.returncode == 2
    assert "holds a study with other settings (arms, baseline, epochs, eval_every, frames)" in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_momentum_0_in_evaluation_is_nothing_and_the_check_can_fail(data_file: Path, tmp_path: Path) -> None:
    """Of a network trained in the loop; by other statistics the same check says that logits differ."""
    run = trained_run(data_file, tmp_path / "run", kind="bn", persons="loop", momentum=0.01)
    found = re_evaluations.re_evaluate(run, re_evaluations.RE_EVALUATIONS, read_test=True)
    summary = json.loads((run / "summary.json").read_text())
    assert found["momentum_0"]["identical"]
    assert found["momentum_0"]["test"] == summary["test"]
    assert found["momentum_0"]["A"] == summary["accuracies"]["A"]
    assert not found["joint"]["identical"]
    assert not found["per_call"]["identical"]
    assert found["per_call"]["A"] > found["momentum_0"]["A"] + 0.2  # what the loop took is given back


def test_momentum_0_while_training_is_another_matter(data_file: Path, tmp_path: Path) -> None:
    """Negative control: a layer that is left in training mode does look at its momentum."""
    layer = torch.nn.BatchNorm1d(4, momentum=0.5)
    before = layer.running_mean.clone()
    layer(torch.randn(8, 4) + 1)
    assert not torch.equal(layer.running_mean, before)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_setting_of_the_trainer(name: str) -> None:
    """And no two arms are the same."""
    arms = read_arms(name)
    assert arms.baseline in arms.trained()
    for arm in arms.trained().values():
        from_dict(nested({"data": "a.h5", "out": "run"} | arm.settings))
    unique = {
        (json.dumps(arm.settings, sort_keys=True), arm.ranks, arm.of, arm.re_evaluation) for arm in arms.arms.values()
    }
    assert len(unique) == len(arms.arms)


def test_the_question_has_the_arms_that_were_asked_for() -> None:
    """One change each against the question's own network, two where the name says so."""
    arms = read_arms("question")
    base = arms.arms[arms.baseline].settings
    assert base == {"norm.kind": "bn", "norm.persons": "loop", "norm.momentum": 0.01}
    changes = {name: sorted(set(arm.settings.items()) - set(base.items())) for name, arm in arms.trained().items()}
    assert changes.pop(arms.baseline) == []
    assert all(len(change) == 1 + (", momentum" in name) for name, change in changes.items())
    assert {value for change in changes.values() for key, value in change if key == "train.batch_size"} == {16, 256}
    assert {value for change in changes.values() for key, value in change if key == "norm.momentum"} == {0.001, 0.1}
    assert {value for change in changes.values() for key, value in change if key == "model.dropout"} == {0, 0.2, 0.7}
    assert {arm.re_evaluation for arm in arms.arms.values() if arm.of} == {"momentum_0", "joint", "per_call"}
    assert [arm.ranks for arm in arms.arms.values() if arm.ranks > 1] == [2, 2]


def test_tasks_go_seed_by_seed() -> None:
    """So that a study that stops early has paired arms."""
    wanted = list_tasks(read_arms("persons"), 2)
    assert [task.seed for task in wanted] == [0] * (len(wanted) // 2) + [1] * (len(wanted) // 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('baseline = "b"\n[arms.a]\nnorm.kind = "bn"', "baseline 'b' is not an arm: choose one of a."),
        ('baseline = "a"\n[arms.a]\nnorm.kinds = "bn"', "arm 'a': unknown setting norm.kinds; did you mean norm.kind?"),
        ('baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"', "needs both `of` and `re_evaluation`"),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "c"\nre_evaluation = "joint"',
            "is of 'c', which is not a trained arm",
        ),
        (
            'baseline = "a"\n[arms.a]\n[arms.b]\nof = "a"\nre_evaluation = "x"',
            "choose one of momentum_0, joint, per_call",
        ),
        ('baseline = "a"\n[arms.a]\ntrain.seed = 3', "cannot set seed"),
        ('baseline = "a"\n[arm.a]', "unknown: arm"),
        ("baseline = ", "is not TOML"),
    ],
)
def test_a_mistake_in_a_file_of_arms_is_named(tmp_path: Path, text: str, words: str) -> None:
    """One line."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=".*") as caught:
        read_arms(str(tmp_path / "mine.toml"))
    assert words in str(caught.value)


def test_unknown_arms_get_the_nearest_name() -> None:
    """And the way out."""
    with pytest.raises(ValueError, match=r"did you mean norms\?"):
        read_arms("norm")


def test_flat_and_nested_names_are_the_same() -> None:
    """A table and a dotted name."""
    assert flat({"norm": {"kind": "bn"}}) == flat({"norm.kind": "bn"}) == {"norm.kind": "bn"}
    assert isinstance(read_arms("question"), Arms)


def test_named_arms_can_be_asked_of_other_settings(tmp_path: Path) -> None:
    """What all share is theirs, what an arm is about stays the arm's; arms of one's own join them."""
    path = tmp_path / "other.toml"
    path.write_text('from = "question"\ncommon.model.name = "hcn"\ncommon.norm.momentum = 0.5\n[arms.mine]\n')
    question, other = read_arms("question"), read_arms(str(path))
    assert list(other.arms) == [*question.arms, "mine"]
    assert other.baseline == question.baseline
    assert other.arms["momentum 0.1"].settings == question.arms["momentum 0.1"].settings | {"model.name": "hcn"}
    assert other.arms["recalibrated per call"] == question.arms["recalibrated per call"]


def test_arms_to_start_from_must_exist(tmp_path: Path) -> None:
    """The message names those that do."""
    path = tmp_path / "other.toml"
    path.write_text('from = "questions"\n')
    with pytest.raises(ValueError, match=r"'questions'.*question, norms, persons"):
        read_arms(str(path))


def test_a_full_disk_is_told_in_one_line(data_file: Path, full_disk: Path) -> None:
    result = study(data_file, full_disk / "out", "persons", timeout=120)
    assert (result.returncode, result.stderr.strip().count("\n")) == (7, 0), result.stderr
    assert "No space left on device" in result.stderr

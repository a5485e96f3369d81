"""ensemble.py: sums of log-probabilities, weights from val alone, and the command."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipeline import ensemble, train
from pipeline.config import from_dict
from pipeline.evaluation import accuracies
from pipeline.evaluation.metrics import metrics
from pipeline.run_folder import Run
from tests.conftest import write_file
from tests.pipeline.conftest import SMALL, made_unfinished, trained_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair(runs: Path) -> list[ensemble.Member]:
    """Two of the runs that the tests share."""
    return ensemble.members([runs / "none", runs / "bn-masked"], CPU)


def test_the_scores_are_weighted_sums_of_log_probabilities(pair: list[ensemble.Member]) -> None:
    """By hand, from the models themselves; the weights are scaled to a sum of 1, which the loss depends on."""
    result = ensemble.ensemble(pair, [1.0, 0.25])
    total = 0.0
    for weight, member in zip((1.0, 0.25), pair, strict=True):
        logits = accuracies.predict(member.model, member.run.clips, member.run.splits.test, 16, 8).logits_NK
        total = total + weight * logits.double().softmax(1).log()
    expected = metrics(total / 1.25, pair[0].run.clips.label_N[pair[0].run.splits.test])
    assert result["test"] == pytest.approx(expected)
    assert (result["weights"], result["weights_from"]) == ([1.0, 0.25], "given")


def test_a_run_with_all_the_weight_is_the_ensemble(pair: list[ensemble.Member]) -> None:
    """And its figures are those of its summary."""
    result = ensemble.ensemble(pair, [0.0, 1.0])
    summary = json.loads((pair[1].run.folder / "summary.json").read_text())
    for part in ("val", "test"):
        assert result[part] == result["runs"][1][part] == summary[part]


def test_weights_prefer_the_run_that_is_right() -> None:
    """Of two runs one knows the label, one guesses at random; swapped, the weights swap."""
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, 5, (200,), generator=draw)
    noise = torch.randn(2, 200, 5, generator=draw, dtype=torch.float64)
    noise[0] += 3 * torch.nn.functional.one_hot(label, 5)
    says = noise.log_softmax(2)
    weights = ensemble.choose_weights(says, label)
    assert weights[0] > 4 * weights[1]
    torch.testing.assert_close(ensemble.choose_weights(says.flip(0), label), weights.flip(0), rtol=1e-3, atol=1e-3)


def test_chosen_weights_are_at_least_as_likely_as_equal_ones(pair: list[ensemble.Member]) -> None:
    """On the val clips, which alone they are chosen on."""
    index = pair[0].run.splits.val
    says = torch.stack([run.log_probabilities(index) for run in pair])
    label = pair[0].run.clips.label_N[index]

    def loss(weights: torch.Tensor) -> float:
        return torch.nn.functional.cross_entropy(ensemble.combine(says, weights), label).item()

    result = ensemble.ensemble(pair)
    assert result["weights_from"] == "val"
    assert loss(torch.tensor(result["weights"], dtype=torch.float64)) <= loss(torch.ones(2, dtype=torch.float64))


def test_the_test_labels_have_no_say_in_the_weights(pair: list[ensemble.Member]) -> None:
    """Other test labels, same weights, another accuracy."""
    before = ensemble.ensemble(pair)
    clips, test = pair[0].run.clips, pair[0].run.splits.test
    kept = clips.label_N.clone()
    clips.label_N[test] = (kept[test] + 1) % clips.classes
    try:
        after = ensemble.ensemble(pair)
    finally:
        clips.label_N.copy_(kept)
    assert after["weights"] == before["weights"]
    assert after["test"] != before["test"]


def test_runs_that_trained_on_val_are_not_weighed_by_it(runs: Path, data_file: Path, tmp_path: Path) -> None:
    """All weigh the same, and the result names that."""
    values = {"data": data_file, "out": tmp_path / "refit", **SMALL}
    values["input"] = {"frames": 16, "fit": "train+val"}
    config = from_dict(values | {"train": {"epochs": 1, "eval_every": 1, "batch_size": 8, "self_test": False}})

    Run.claim(config)
    train.run(config)
    result = ensemble.ensemble(ensemble.members([runs / "none", tmp_path / "refit"], CPU))
    assert result["weights"] == [1.0, 1.0]
    assert result["weights_from"].startswith("equal")
    assert "val" not in result
    assert "test" in result


def test_the_command_leaves_its_figures(
    runs: Path, pair: list[ensemble.Member], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON beside its text."""
    out = tmp_path / "both.json"
    assert ensemble.main([str(runs / "none"), str(runs / "bn-masked"), "--out", str(out)]) == 0
    assert "together" in capsys.readouterr().out
    assert json.loads(out.read_text())["test"] == pytest.approx(ensemble.ensemble(pair)["test"])


def test_a_mistake_gets_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too few runs, a folder that is none, too few weights."""
    for arguments, words in (
        ([runs / "none"], "needs two runs or more"),
        ([runs / "none", tmp_path], "is not a run folder"),
        ([runs / "none", runs / "bn-masked", "--out", "x.skeleton"], "--out x.skeleton must end in .json"),
        ([runs / "none", runs / "bn-masked", "--weights", "1"], "--weights needs 2 finite numbers"),
        ([runs / "none", runs / "bn-masked", "--weights", "nan", "1"], "--weights needs 2 finite numbers"),
        ([runs / "none", runs / "bn-masked", "--weights", "inf", "1"], "--weights needs 2 finite numbers"),
    ):
        assert ensemble.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1


def test_a_run_that_is_not_finished_is_refused(runs: Path, tmp_path: Path) -> None:
    """Its figures would be those of some epoch."""
    half = tmp_path / "half"
    shutil.copytree(runs / "none", half)
    made_unfinished(half)
    with pytest.raises(ValueError, match=r"half is not finished .*; the same python -m pipeline.train command resumes"):
        ensemble.members([half, runs / "bn-masked"], CPU)


def test_runs_are_named_as_they_were_given(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of one name are distinguished, and brackets are not markup."""
    others = [tmp_path / "a" / "run[x]", tmp_path / "b" / "run[x]"]
    for other in others:
        shutil.copytree(runs / "none", other)
    result = ensemble.ensemble(ensemble.members(others, CPU))
    ensemble.show(result, Console(width=400))
    printed = capsys.readouterr().out
    assert all(str(other) in printed for other in others)


def test_large_weights_count_as_their_ratio(pair: list[ensemble.Member]) -> None:
    """Their sum is past all numbers."""
    huge, equal = (ensemble.ensemble(pair, [weight, weight]) for weight in (1e308, 1.0))
    assert (huge["val"], huge["test"]) == (equal["val"], equal["test"])


def test_runs_on_other_data_are_refused(runs: Path, tmp_path: Path) -> None:
    """By the file's content."""
    other = trained_run(write_file(tmp_path / "other.h5", clips=48, seed=9), tmp_path / "run", kind="none")
    with pytest.raises(ValueError, match="was trained on another data file than"):
        ensemble.members([runs / "none", other], CPU)


def test_a_full_disk_is_told(runs: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(runs / "none"), str(runs / "bn-masked"), "--out", str(full_disk / "together.json")]
    assert ensemble.main(words) == 7
    assert "no space left for" in capsys.readouterr().err


def test_runs_on_another_protocol_are_refused(tmp_path: Path) -> None:
    """Their test clips differ, though the file is the same."""
    data, folders = write_file(tmp_path / "two.h5", clips=48, protocols=("xsub", "xview")), []
    for protocol in ("xsub", "xview"):
        folders.append(tmp_path / protocol)
        values = {"data": data, "out": folders[-1], "input": {"frames": 16, "protocol": protocol}}
        Run.claim(from_dict(values))
        (folders[-1] / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"xview was trained on protocol xview, .*xsub on xsub; their test clips"):
        ensemble.members(folders, CPU)

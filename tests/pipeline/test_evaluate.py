"""evaluate.py: a trained run on another file or split."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import evaluate, predict
from pipeline.run_folder import Run
from preprocessing.hdf5 import open_file
from tests.conftest import Answer, write_file


def test_the_runs_own_test_split_has_the_figures_of_its_summary(runs: Path, data_file: Path) -> None:
    """The same clips through the same code; A and B are the summary's."""
    predictor = predict.load(runs / "bn-loop", torch.device("cpu"))
    result = evaluate.evaluate(predictor, open_file(data_file))
    summary = Run(runs / "bn-loop").summary
    assert (result["protocol"], result["split"], result["clips"]) == ("xsub", "test", summary["clips"]["test"])
    assert result["metrics"] == summary["test"]
    assert result["accuracies"] == pytest.approx(summary["accuracies"])
    assert result["confusion"] == summary["confusion"]
    assert result["calibration"]["ece_calibrated"] == pytest.approx(summary["calibration"]["test"]["ece_calibrated"])
    assert sum(one["clips"] for one in result["calibration"]["bins"]) == result["clips"]
    assert result["notes"] == []


def test_joints_in_another_order_and_fewer_classes_change_no_answer(runs: Path, data_file: Path) -> None:
    """The same clips, shuffled joints and renumbered classes, without one class: the same answers."""
    predictor, file = predict.load(runs / "bn-masked", torch.device("cpu")), open_file(data_file)
    whole = evaluate.evaluate(predictor, file)
    order = np.random.default_rng(0).permutation(10)
    other = dataclasses.replace(
        file,
        joint_names=[file.joint_names[v] for v in order],
        joints_RV3=np.asarray(file.joints_RV3)[:, order],
        class_names=["swing 2", "swing 1", "swing 0", "dance"],
        clips=file.clips | {"label": np.array([2, 1, 0, 3])[np.asarray(file.clips["label"])]},
    )
    result = evaluate.evaluate(predictor, other)
    assert result["left_out"] == whole["clips"] // 4
    expected = np.array(whole["confusion"])
    expected[3] = 0
    np.testing.assert_array_equal(result["confusion"], expected)
    assert result["among_shared"] >= result["metrics"]["top1"]
    wrong = evaluate.evaluate(predictor, dataclasses.replace(other, joint_names=file.joint_names))  # negative control
    assert wrong["confusion"] != result["confusion"]


def test_a_shift_of_the_file_is_seen_in_d(runs: Path, data_file: Path) -> None:
    """Decimetres for metres: running statistics fail, those of the batch do not.

    On training clips, which the network knows on every machine. On test clips C is near the limit of the message.
    """
    predictor, file = predict.load(runs / "bn-masked", torch.device("cpu")), open_file(data_file)
    other = dataclasses.replace(file, joints_RV3=np.asarray(file.joints_RV3) * 10)
    result = evaluate.evaluate(predictor, other, split="train")
    four = result["accuracies"]
    assert four["D"] - four["C"] > 0.2
    assert any("recover" in line for line in evaluate.describe(result))
    same = evaluate.evaluate(predictor, file, split="train")
    assert not any("recover" in line for line in evaluate.describe(same))


def test_the_command_leaves_json_and_a_page(runs: Path, tmp_path: Path, answer: Answer) -> None:
    """Another file; training clips of the run are named as such."""
    other = write_file(tmp_path / "other.h5", clips=96, seed=5)
    page = tmp_path / "page.html"
    done = answer(evaluate.main, runs / "none", "--data", other, "--split", "all", "--html", page)
    assert done.returncode == 0, done.stderr
    assert "96 clips of 4 of the network's 4 classes" in done.stdout
    assert "32 of these clips are training clips" in done.stdout  # of the same data set, by name
    stored = json.loads((runs / "none" / "evaluations" / "other-xsub-all.json").read_text())
    assert stored["clips"] == 96
    text = page.read_text()
    assert "“none” on other.h5" in text
    assert "Reliability diagram" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "FILE", "--protocol", "xset"], "has xsub. Use one of them."),
        (["--data", "nowhere.h5"], "--data nowhere.h5 is not a file"),
        (["--data", "FILE", "--html", "page.txt"], "must end in .html"),
        (["--data", "FEW", "--split", "val"], "(xsub: test 4, train 4, val 0) has no clips. Choose another"),
    ],
)
def test_mistakes_end_in_one_line(
    runs: Path, data_file: Path, tmp_path: Path, answer: Answer, words: list[str], message: str
) -> None:
    """Exit code 2."""
    files = {"FILE": str(data_file), "FEW": str(write_file(tmp_path / "few.h5", 8, val_subjects=()))}
    done = answer(evaluate.main, runs / "none", *(files.get(word, word) for word in words))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_ensemble_is_no_run(runs: Path, data_file: Path) -> None:
    """Two networks have no accuracies A to D."""
    predictor = predict.load(runs / "none", torch.device("cpu"))
    both = predict.Predictor(
        Path("both.json"), predictor.metadata, predictor.networks * 2, [1, 1], None, predictor.device
    )
    with pytest.raises(ValueError, match="combines 2 runs: name one run folder"):
        evaluate.evaluate(both, open_file(data_file))


def test_crop_windows_need_a_network_that_knows_them(runs: Path, data_file: Path) -> None:
    """A network that was trained on crops gets a second figure; any other is rejected."""
    predictor, file = predict.load(runs / "bn-masked"), open_file(data_file)
    with pytest.raises(ValueError, match=r"--test-clips 3: the network was trained without crop windows"):
        evaluate.evaluate(predictor, file, test_clips=3)
    one = predictor.networks[0]
    augment = dataclasses.replace(one.config.augment, crop=0.5)
    predictor.networks = [one._replace(config=dataclasses.replace(one.config, augment=augment))]
    result = evaluate.evaluate(predictor, file, test_clips=3)
    assert result["several_clips"]["clips"] == 3
    assert "with 3 crop windows per clip: top-1" in evaluate.describe(result)[2]
    assert "several_clips" not in evaluate.evaluate(predictor, file)

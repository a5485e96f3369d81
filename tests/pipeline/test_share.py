"""share.py: a trained run as a folder that predicts without the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import evaluate, predict, share
from pipeline.run_folder import Run
from preprocessing import files
from preprocessing.hdf5 import open_file
from tests.conftest import Answer
from tests.pipeline.conftest import made_unfinished

CPU = torch.device("cpu")


@pytest.fixture
def model(runs: Path, tmp_path: Path) -> Path:
    """A shared run."""
    share.share(Run(runs / "bn-masked", CPU), tmp_path / "model")
    return tmp_path / "model"


def test_a_model_answers_as_its_run_does(runs: Path, data_file: Path, model: Path, tmp_path: Path) -> None:
    """The same probabilities, stages and calibration, wherever the folder lies; no path of this machine is in it."""
    file = open_file(data_file)
    clip = np.asarray(file.joints_RV3[: int(file.clips["frames"][0])])
    moved = shutil.move(model, tmp_path / "elsewhere")
    mine, theirs = predict.load(runs / "bn-masked", CPU), predict.load(moved, CPU)
    assert mine(clip) == theirs(clip)
    assert theirs.calibrated
    assert theirs.temperature == mine.temperature
    for name in (share.FACTS, share.CARD):
        assert str(tmp_path) not in (moved / name).read_text()
        assert str(runs) not in (moved / name).read_text()
    mine_figures, figures = (evaluate.evaluate(one, file) for one in (mine, theirs))
    assert figures["accuracies"] == mine_figures["accuracies"]


def test_the_card_has_data_protocol_figures_and_limits(runs: Path, model: Path) -> None:
    """From the run's own summary."""
    card, summary = (model / share.CARD).read_text(), Run(runs / "bn-masked").summary
    for words in ("swinging joints", "protocol xsub", "swing 0, swing 1", "## Limits", "joint0, joint1"):
        assert words in card
    assert f"| test | {summary['clips']['test']} | {100 * summary['test']['top1']:.1f} %" in card


def test_a_damaged_model_is_named(model: Path) -> None:
    """Weights, facts, format: exit 6 in predict."""
    weights, facts = model / share.WEIGHTS, model / share.FACTS
    content, text = weights.read_bytes(), facts.read_text()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(files.IntegrityError, match="is missing or not the file that model.json names"):
        predict.load(model, CPU)
    weights.write_bytes(content)
    for changed, words in (
        (json.dumps(json.loads(text) | {"format": "x/9"}), "has format 'x/9'"),
        (json.dumps(json.loads(text) | {"format": share.UNSIGNED}), "has format 'skelnorm-model/1'"),
        (text.replace("swing 0", "swing 9"), "was edited: its checksum differs"),
        ("{}", "is damaged"),
    ):
        facts.write_text(changed)
        with pytest.raises(files.IntegrityError, match=words):
            predict.load(model, CPU)
    config = json.loads(text)
    config["config"]["model"]["width"] = 0.5
    config["format"] = share.UNSIGNED
    config.pop("checksum")
    facts.write_text(json.dumps(config))
    with pytest.raises(files.IntegrityError, match=r"weights and model.json do not fit \(size mismatch"):
        predict.load(model, CPU)


def test_the_command_writes_no_folder_over_another(runs: Path, model: Path, tmp_path: Path, answer: Answer) -> None:
    """Nor an unfinished run."""
    done = answer(lambda: share.main([str(runs / "none"), "--out", str(model)]))
    assert done.returncode == 2
    assert "exists and is not an empty folder" in done.stderr
    half = tmp_path / "half"
    shutil.copytree(runs / "none", half)
    made_unfinished(half)
    assert "is not finished" in answer(lambda: share.main([str(half), "--out", str(tmp_path / "x")])).stderr
    done = answer(lambda: share.main([str(runs / "none"), "--out", str(tmp_path / "x")]))
    assert done.returncode == 0
    assert "python -m pipeline.predict" in done.stdout

"""re_evaluations.py: a trained network evaluated in other ways; momentum 0 is shown to change nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.evaluation.accuracies import Prediction
from pipeline.normdoctor.sources import POPULATION_SOURCES
from tests.pipeline.conftest import trained_run
from tuning import re_evaluations
from tuning.re_evaluations import RE_EVALUATIONS, Trained, re_evaluate


@pytest.fixture(scope="module")
def loop(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained with the question's norm: one BatchNorm is called per body."""
    folder = tmp_path_factory.mktemp("loop") / "run"
    return trained_run(data_file, folder, kind="bn", persons="loop", momentum=0.01)


@pytest.fixture(scope="module")
def found(loop: Path) -> dict[str, dict[str, Any]]:
    """All re-evaluations of that network."""
    return re_evaluate(loop, RE_EVALUATIONS, read_test=True)


def test_the_names_are_momentum_0_and_the_population_sources() -> None:
    """Arms of studies refer to them."""
    assert list(RE_EVALUATIONS) == ["momentum_0", *POPULATION_SOURCES] == ["momentum_0", "joint", "per_call"]


def test_momentum_0_in_evaluation_changes_no_bit(loop: Path, found: dict[str, dict[str, Any]]) -> None:
    """Its metrics are those of the plain evaluation."""
    summary = json.loads((loop / "summary.json").read_text())
    assert found["momentum_0"]["identical"]
    assert found["momentum_0"]["test"] == summary["test"]
    assert found["momentum_0"]["A"] == summary["accuracies"]["A"]


def test_one_set_of_statistics_recovers_half_and_one_per_call_all(found: dict[str, dict[str, Any]]) -> None:
    """A quarter is chance with four classes. joint and per_call differ, on every split."""
    for split in ("A", "val", "test"):
        top1 = {name: one[split] if split == "A" else one[split]["top1"] for name, one in found.items()}
        assert top1["momentum_0"] < 0.4 < 0.6 < top1["joint"] < 0.9 < top1["per_call"]
    assert not found["joint"]["identical"]
    assert not found["per_call"]["identical"]


def test_a_layer_in_training_mode_reads_its_momentum() -> None:
    """The control of momentum 0: there the running mean moves."""
    layer = torch.nn.BatchNorm1d(4, momentum=0.5)
    layer(torch.randn(8, 4) + 1)
    assert layer.running_mean is not None
    assert layer.running_mean.abs().min() > 0


def test_the_test_split_is_not_read_unless_asked_for(loop: Path) -> None:
    """As in a search."""
    found = re_evaluate(loop, ["momentum_0"], read_test=False)
    assert found.keys() == {"momentum_0"}
    assert found["momentum_0"].keys() == {"val", "A", "identical"}


def touched(trained: Trained) -> re_evaluations.Predict:
    """Give the plain logits and change one buffer behind them."""

    def predict(index_N: Tensor) -> Prediction:
        prediction = trained.predict(index_N)
        next(trained.model.buffers()).add_(1)
        return prediction

    return predict


def test_a_changed_buffer_is_not_identical(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although every logit of val is, since val comes first."""
    monkeypatch.setitem(RE_EVALUATIONS, "touched", touched)
    found = re_evaluate(loop, ["touched", "momentum_0"], read_test=False)
    assert not found["touched"]["identical"]

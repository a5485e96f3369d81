"""measure: what is measured in which epoch, and on which split at the end."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import training
from pipeline.config import Config, from_dict
from pipeline.evaluation.accuracies import evaluation, predict
from pipeline.evaluation.measure import after_epoch, final

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(data_file: Path) -> tuple[Config, Any, Any, torch.nn.Module]:
    """Settings, clips, splits and an untrained network; three epochs, of which every second one is evaluated."""
    values = {"data": data_file, "out": Path("unused"), "input": {"frames": 16}, "wandb": "off"}
    config = from_dict(values | {"train": {"epochs": 3, "eval_every": 2, "batch_size": 16}})
    clips, splits, state = training.setup(config, CPU)
    return config, clips, splits, state.model


@pytest.mark.parametrize(
    ("recalibrate", "epochs"), [("never", set()), ("final", {3}), ("each", {1, 2, 3})], ids=["never", "final", "each"]
)
def test_an_epoch_is_recalibrated_and_evaluated_as_the_settings_say(
    made: tuple[Config, Any, Any, torch.nn.Module], recalibrate: str, epochs: set[int]
) -> None:
    """The last epoch is always evaluated."""
    config, clips, splits, model = made
    config = dataclasses.replace(config, norm=dataclasses.replace(config.norm, recalibrate=recalibrate))
    records = {epoch: after_epoch(config, clips, splits, copy.deepcopy(model), epoch) for epoch in (1, 2, 3)}
    assert {epoch for epoch, record in records.items() if "reused" in record} == epochs
    assert {epoch for epoch, record in records.items() if "accuracies" in record} == {2, 3}


def test_the_end_is_measured_on_the_test_split_where_there_is_one(
    made: tuple[Config, Any, Any, torch.nn.Module],
) -> None:
    """C and the confusion are those of its clips, else of the held-out ones."""
    config, clips, splits, model = made
    right_N = predict(model, clips, splits.test, 16, 16).correct_N
    splits = splits._replace(test=torch.cat([splits.test[right_N], splits.test[~right_N][:5]]))
    assert predict(model, clips, splits.test, 16, 16).top1 > predict(model, clips, splits.val, 16, 16).top1 + 0.1
    assert len(splits.test) != len(splits.val)
    for name, given in (("test", splits), ("val", splits._replace(test=splits.test[:0]))):
        summary = final(config, clips, given, model)
        assert summary["eval"] == name
        assert sum(map(sum, summary["confusion"])) == len(getattr(splits, name))
        alone = predict(model, clips, getattr(splits, name), 16, 16)
        assert summary["accuracies"]["C"] == summary[name]["top1"] == alone.top1
        assert bool(summary["test"]) is (name == "test")


def test_statistics_are_compared_with_those_of_training_clips_alone(
    made: tuple[Config, Any, Any, torch.nn.Module],
) -> None:
    """The shift of a norm is the same with evaluation clips and without."""
    _, clips, splits, model = made
    with_test = evaluation(model, clips, splits.train, splits.test, 16, 16)
    assert with_test.norms == evaluation(model, clips, splits.train, splits.test[:0], 16, 16).norms
    assert with_test.norms

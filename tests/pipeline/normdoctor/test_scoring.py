"""scoring: losses are recognised, chance is pointed out, and the model stays as it is."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.bench import Bench
from pipeline.normdoctor.calling import Metric
from pipeline.normdoctor.samples import take
from pipeline.normdoctor.scoring import Scoring, read_metric, shuffled_weights
from tests.pipeline.normdoctor.planted import Small, data, refreshed, trained

TRAIN, HELD_OUT = data(0), data(1)


@pytest.fixture(scope="module")
def fine() -> nn.Module:
    """A healthy network."""
    torch.manual_seed(0)
    return trained(Small(), TRAIN)


def correct(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Whether the first choice is right."""
    return output.argmax(1) == batch[1]


def read(
    model: nn.Module, metric: Metric, higher_is_better: bool | None = None, is_ready_made: bool = False
) -> Scoring:
    """How the scores of a model are read."""
    bench = Bench(copy.deepcopy(model), take(TRAIN), None, lambda net, b: net(b[0]), metric)
    return read_metric(bench, higher_is_better, is_ready_made)


LOSSES: dict[str, Metric] = {
    "per sample": lambda o, b: nn.functional.cross_entropy(o, b[1], reduction="none"),
    "per batch": lambda o, b: nn.functional.cross_entropy(o, b[1]),
    "errors": lambda o, b: o.softmax(1)[torch.arange(len(o)), b[1]] < 0.6,
    "in 0 to 1": lambda o, b: (o.softmax(1) - nn.functional.one_hot(b[1], 3)).abs().mean(1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_recognised_and_its_negative_is_not(fine: nn.Module, name: str) -> None:
    """By what damage does to it; the negative is a score already."""
    metric = LOSSES[name]
    assert read(fine, metric).sign == -1
    assert "it is read as a loss" in read(fine, metric).note
    assert read(fine, lambda o, b: -metric(o, b).float()) == Scoring()
    assert read(fine, correct) == Scoring()


def test_what_the_user_says_is_followed_and_a_contradiction_is_pointed_out(fine: nn.Module) -> None:
    """Both ways."""
    loss = LOSSES["per sample"]
    assert read(fine, loss, higher_is_better=False) == Scoring(-1.0)
    said = read(fine, loss, higher_is_better=True)
    assert said.sign == 1
    assert "higher_is_better=True contradicts the scores" in said.note
    assert read(fine, correct, higher_is_better=True) == Scoring()


def test_chance_and_worse_than_chance_are_pointed_out(fine: nn.Module) -> None:
    """Labels of other samples; labels that are one off."""
    assert "at chance" in read(fine, lambda o, b: o.argmax(1) == b[1].roll(1)).note
    off = read(fine, lambda o, b: o.argmax(1) == (b[1] + 1) % 3)
    assert off.sign == 1
    assert "worse than chance" in off.note
    assert "pass higher_is_better=False" in off.note  # errors of few classes look like it


def test_the_direction_of_a_ready_made_metric_is_known(fine: nn.Module) -> None:
    """What it says of labels that do not fit is no reason to read it as a loss."""
    said = read(fine, LOSSES["per sample"], is_ready_made=True)
    assert said.sign == 1
    assert "worse than chance" in said.note


def test_a_forgotten_minus_changes_no_cause_and_no_loss_is_shown_in_points(fine: nn.Module) -> None:
    """Statistics that lag, found by a loss in [0, 1]; the control finds nothing."""
    metric = LOSSES["in 0 to 1"]
    slow = refreshed(copy.deepcopy(fine), TRAIN, 0.002)
    diagnosis = diagnose(slow, TRAIN, HELD_OUT, metric=metric)
    assert diagnosis.causes[0].check == "stale"
    assert diagnosis.causes[0].recovered > 0.8
    assert diagnosis.accuracies["A"] < diagnosis.accuracies["B"] < 0
    assert "points" not in diagnosis.verdict
    assert "from loss 0." in diagnosis.verdict
    well = diagnose(fine, TRAIN, HELD_OUT, metric=metric)
    assert (well.causes, well.suspicions) == ([], [])


def test_weights_are_shuffled_and_put_back(fine: nn.Module) -> None:
    """The same elements elsewhere; vectors stay."""
    model = copy.deepcopy(fine)
    with shuffled_weights(model, 0):
        own, was = model.first.weight, fine.first.weight
        assert not torch.equal(own, was)
        assert torch.equal(own.flatten().sort().values, was.flatten().sort().values)
        assert torch.equal(model.norm1.weight, fine.norm1.weight)
    assert torch.equal(model.first.weight, fine.first.weight)

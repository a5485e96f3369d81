"""calling: how a model takes a batch, which part is the label and which metric fits are found, and said."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor.calling import Usage, usage
from pipeline.normdoctor.metrics import METRICS
from pipeline.normdoctor.samples import take

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 5, generator=DRAW), torch.randint(3, (40,), generator=DRAW)
INDEX = torch.randperm(40, generator=DRAW)


class One(nn.Module):
    """Logits of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        return self.linear(x)


class Two(One):
    """Logits of two inputs, one of them halved."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Logits (N, 3)."""
        return self.linear(left - right / 2)


class OfBatch(One):
    """Takes the whole batch."""

    def forward(self, data: Any) -> Tensor:
        """Logits (N, 3)."""
        return self.linear(data["picture"] if isinstance(data, dict) else data.x)


class Hugging(One):
    """Takes names, gives an object with logits."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        """A mapping with a loss before the logits."""
        assert attention_mask is not None
        return {"loss": torch.zeros(()), "logits": self.linear(input_ids)}


@dataclass
class Graphs:
    """Attributes and no mapping."""

    x: Tensor
    y: Tensor


class Opaque(SimpleNamespace):
    """An object that nobody can put together again."""


def batches(make: Any) -> list[Any]:
    """Batches of ten of x, y and the index of each sample."""
    return [make(X[i : i + 10], Y[i : i + 10], INDEX[i : i + 10]) for i in range(0, 40, 10)]


CASES: dict[str, tuple[nn.Module, Any, str, str]] = {
    "a pair": (One(), lambda x, y, i: (x, y), "model(batch[0])", "batch[1]"),
    "with an index": (One(), lambda x, y, i: (x, y, i), "model(batch[0])", "batch[1]"),
    "with an index in front of the label": (One(), lambda x, y, i: (x, i, y), "model(batch[0])", "batch[2]"),
    "two inputs": (Two(), lambda x, y, i: (x, x, y), "model(batch[0], batch[1])", "batch[2]"),
    "a tuple of two inputs": (Two(), lambda x, y, i: ((x, x), y), "model(*batch[0])", "batch[1]"),
    "names": (One(), lambda x, y, i: {"x": x, "y": y}, "model(x=batch['x'])", "batch['y']"),
    "other names": (One(), lambda x, y, i: {"id": i, "picture": x, "y": y}, "model(batch['picture'])", "batch['y']"),
    "the whole dict": (OfBatch(), lambda x, y, i: {"picture": x, "y": y}, "model(batch)", "batch['y']"),
    "names of transformers": (
        Hugging(),
        lambda x, y, i: {"labels": y, "input_ids": x, "attention_mask": x > 0},
        "model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask'])",
        "batch['labels']",
    ),
    "a dataclass": (OfBatch(), lambda x, y, i: Graphs(x, y), "model(batch)", "batch.y"),
    "an object": (OfBatch(), lambda x, y, i: Opaque(x=x, y=y), "model(batch)", "batch.y"),
    "its attributes": (One(), lambda x, y, i: Opaque(x=x, y=y), "model(x=batch.x)", "batch.y"),
    "a column of labels": (One(), lambda x, y, i: (x, y[:, None]), "model(batch[0])", "batch[1]"),
    "a list of labels": (One(), lambda x, y, i: (x, y.tolist()), "model(batch[0])", "batch[1]"),
    "one-hot labels": (One(), lambda x, y, i: (x, torch.eye(3)[y]), "model(batch[0])", "batch[1]"),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_batch_is_used_as_its_model_takes_it(kind: str) -> None:
    """The call, the label, and the accuracy of the plain model."""
    model, make, call, label = CASES[kind]
    how = usage(model.eval(), take(batches(make)), None, None)
    assert how.assumed[:2] == [f"the model is called as {call}", f"the label is {label}"]
    batch = batches(make)[0]
    scores = how.metric(how.forward(model, batch), batch)
    x = X[:10] / 2 if isinstance(model, Two) else X[:10]
    assert torch.equal(scores, (model.linear(x).argmax(1) == Y[:10]).float())


def test_of_two_labels_that_fit_the_one_that_the_model_predicts_is_taken() -> None:
    """A domain number of 0 to 2 stands before the label."""
    model = One().eval()
    with torch.no_grad():
        label = model(X).argmax(1)
    other = (label + 1) % 3
    how = usage(
        model, take([(X[i : i + 10], other[i : i + 10], label[i : i + 10]) for i in range(0, 40, 10)]), None, None
    )
    assert how.assumed[1] == "the label is batch[2]"


def named(output: Tensor, label: Any, metric: str | None = None) -> Usage:
    """The usage of a model that returns its input, `output` (N, ...)."""
    return usage(nn.Identity(), take([(output[:4], label[:4]), (output[4:], label[4:])]), None, metric)


def test_the_metric_follows_from_the_output_and_the_label() -> None:
    """Classes, a logit of two classes, values, masks; a name chooses another."""
    draw = torch.Generator().manual_seed(1)
    values, masks = torch.randn(8, 3, generator=draw), torch.randint(2, (8, 6, 6), generator=draw)
    assert "accuracy" in named(values, torch.arange(8) % 3).assumed[2]
    assert "accuracy" in named(values[:, :1], torch.arange(8) % 2).assumed[2]
    assert "the metric is mse" in named(values, torch.randn(8, 3, generator=draw)).assumed[2]
    assert "accuracy" in named(torch.randn(8, 2, 6, 6, generator=draw), masks).assumed[2]
    assert "the metric is iou" in named(torch.randn(8, 2, 6, 6, generator=draw), masks, "iou").assumed[2]
    assert "the metric is mae" in named(values[:, 0], torch.arange(8), "mae").assumed[2]


@pytest.mark.parametrize(
    ("metric", "words"),
    [("f1", "metric 'f1' is unknown: choose one of accuracy"), ("iou", "no label fits that"), (None, "no label fits")],
)
def test_what_does_not_fit_is_rejected_in_one_line(metric: str | None, words: str) -> None:
    """A name that does not exist, one that does not fit, and integers for values."""
    with pytest.raises(ValueError, match=words) as error:
        named(torch.randn(8), torch.arange(8), metric)
    assert "\n" not in str(error.value)


def test_a_model_that_takes_no_call_is_rejected_with_what_was_tried() -> None:
    """One line with the argument that helps."""
    with pytest.raises(
        ValueError, match=r"no call of the model works .*model\(batch\[0\]\): RuntimeError.*forward="
    ) as error:
        usage(nn.Linear(7, 3), take(batches(lambda x, y, i: (x, y))), None, None)
    assert "\n" not in str(error.value)


def test_the_model_stays_as_it_is() -> None:
    """Trials leave modes, buffers and the random state."""
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    model[2].eval()
    before, state = [b.clone() for b in model.buffers()], torch.get_rng_state()
    usage(model, take(batches(lambda x, y, i: (x, y))), None, None)
    assert all(torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.equal(torch.get_rng_state(), state)


# metrics


def test_several_labels_per_sample_are_scored_by_hand() -> None:
    """Three of four right, by logits and by probabilities; a label of fractions is no yes or no."""
    label = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    logits = torch.tensor([[2.0, -1.0, -3.0, 0.5], [-1.0, -1.0, 1.0, 1.0]])
    assert score("label accuracy", logits, label) == score("label accuracy", logits.sigmoid(), label) == [0.75, 0.75]
    assert not METRICS["label accuracy"].fits(logits, label / 2)
    assert not METRICS["label accuracy"].fits(logits, label[:, 0])


def score(name: str, output: Any, label: Any) -> list[float]:
    """Of each sample."""
    assert METRICS[name].fits(output, label)
    return [round(value, 4) for value in METRICS[name].score(output, label).tolist()]


def test_masks_are_scored_by_hand() -> None:
    """Two places of four right; class 0 overlaps 1 of 3, class 1 overlaps 1 of 3; places without a class count not."""
    label = torch.tensor([[[0, 0], [1, 1]]])
    found = torch.tensor([[[0, 1], [0, 1]]])
    logits = torch.nn.functional.one_hot(found, 2).movedim(-1, 1).float()
    assert score("segmentation accuracy", logits, label) == [0.5]
    assert score("iou", logits, label) == [0.3333]
    assert score("dice", logits, label) == [0.5]
    ignored = torch.tensor([[[0, 255], [255, 1]]])
    assert score("segmentation accuracy", logits, ignored) == [1.0]
    assert score("iou", logits, ignored) == [1.0]
    binary = torch.tensor([[[[0.9, 0.8], [0.1, 0.2]]]])
    assert score("dice", binary, torch.tensor([[[[1, 0], [0, 0]]]])) == [0.6667]


def test_values_and_logits_are_scored_by_hand() -> None:
    """Errors and losses with a minus: higher is better."""
    assert score("mse", torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])) == [-2.0]
    assert score("mae", torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])) == [0.0, -2.0]
    assert score("cross entropy", torch.zeros(1, 4), torch.tensor([2])) == [-1.3863]
    assert score("accuracy", torch.tensor([0.2, 0.7]), torch.tensor([0, 0])) == [1.0, 0.0]
    assert score("accuracy", torch.tensor([-0.2, 0.7]), torch.tensor([0, 0])) == [1.0, 0.0]
    tokens = torch.eye(3)[torch.tensor([[0, 1, 2], [0, 0, 0]])]
    assert score("accuracy", tokens, torch.tensor([[0, 1, -100], [1, -100, 0]])) == [1.0, 0.5]


def test_boxes_are_scored_by_hand() -> None:
    """One of two found and one false: 2 x 1 / (2 + 2); a class too many, a box of little confidence, none at all."""
    real = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), "labels": torch.tensor([1, 2])}
    found = {
        "boxes": torch.tensor([[0.0, 0, 10, 9], [20, 20, 30, 30], [50, 50, 60, 60]]),
        "labels": torch.tensor([1, 1, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
    }
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    assert score("detection", [found, none], [real, real]) == [0.5, 0.0]
    assert score("detection", [none], [{"boxes": torch.zeros(0, 4)}]) == [1.0]

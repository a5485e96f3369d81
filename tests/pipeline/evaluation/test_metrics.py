"""metrics.py: accuracies by hand."""

import math

import pytest
import torch

from pipeline.evaluation.metrics import confusion, metrics


def test_accuracies_of_an_uneven_set_by_hand() -> None:
    """Class 0: 3 of 4 right, class 1: 0 of 1 right."""
    logits = torch.eye(7)[torch.tensor([0, 0, 0, 1, 0])] + torch.linspace(0.5, 0, 7)
    result = metrics(logits, torch.tensor([0, 0, 0, 0, 6]))
    assert result["top1"] == pytest.approx(3 / 5)
    assert result["mean_class"] == pytest.approx((3 / 4 + 0) / 2)
    assert result["top5"] == pytest.approx(4 / 5)
    assert result["loss"] == pytest.approx(-logits.double().log_softmax(1)[range(5), [0, 0, 0, 0, 6]].mean().item())


def test_the_loss_of_a_probability_that_is_rounded_to_zero_is_finite() -> None:
    """Log-probabilities, as of an ensemble; a logit that is not a number stays visible."""
    result = metrics(torch.tensor([[0.0, -math.inf], [0.0, -math.inf]]), torch.tensor([0, 1]))
    assert result["loss"] == pytest.approx(149 * math.log(2) / 2)
    assert math.isnan(metrics(torch.tensor([[math.nan, 0.0]]), torch.tensor([1]))["loss"])


def test_the_confusion_matrix_by_hand() -> None:
    """Row: class; column: first choice. Its diagonal over all is top-1."""
    label = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1, 0])]
    counts = confusion(logits, label)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.diagonal().sum().item() / 5 == pytest.approx(metrics(logits, label)["top1"])

"""metrics.py: accuracies by hand."""

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


def test_the_confusion_matrix_by_hand() -> None:
    """Row: class; column: first choice. Its diagonal over all is top-1."""
    label = torch.tensor([0, 0, 0, 1, 2])
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1, 0])]
    counts = confusion(logits, label)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert counts.diagonal().sum().item() / 5 == pytest.approx(metrics(logits, label)["top1"])

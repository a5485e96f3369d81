"""calibration.py: the temperature against a search, ECE by hand, and nothing chosen on test."""

import math

import pytest
import torch

from pipeline.evaluation.accuracies import Prediction
from pipeline.evaluation.calibration import calibrate, calibration_error, temperature


def overconfident(sharpness: float, clips: int = 4000, seed: int = 0) -> Prediction:
    """Labels drawn from softmax(logits), then the logits made `sharpness` times as sure."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(clips, 5, generator=draw)
    label = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    return Prediction(sharpness * logits, label)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_much_too_sure_a_network_is(sharpness: float) -> None:
    """Logits that were multiplied by s get about the temperature s."""
    assert temperature(*overconfident(sharpness)) == pytest.approx(sharpness, rel=0.06)


def test_no_other_temperature_is_likelier() -> None:
    """A little hotter or colder: the labels are less likely."""
    logits, label = overconfident(3.0)
    best = temperature(logits, label)

    def loss(t: float) -> float:
        return torch.nn.functional.cross_entropy(logits.double() / t, label).item()

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))


def test_a_network_that_is_always_right_gets_a_finite_temperature() -> None:
    """No sharper than what rounding calls certain, never zero."""
    label = torch.arange(5).repeat(3)
    logits = 9 * torch.nn.functional.one_hot(label, 5).float()
    assert 1 / 20 <= temperature(logits, label) < 1


def test_the_calibration_error_by_hand() -> None:
    """Two clips have confidence 0.7 and one is right; one has 0.5 and is right: (2 * |0.5 - 0.7| + |1 - 0.5|) / 3."""
    probability = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.5, 0.5]])
    label = torch.tensor([0, 0, 0])
    assert calibration_error(probability, label) == pytest.approx((2 * 0.2 + 0.5) / 3)


def test_a_sure_and_right_network_has_no_error() -> None:
    """Probability 1 falls into the last bin, 0 into the first."""
    assert calibration_error(torch.eye(4), torch.arange(4)) == 0
    assert calibration_error(torch.eye(4), torch.arange(4).roll(1)) == 1


def test_calibration_makes_the_confidence_true_on_other_clips() -> None:
    """Chosen on val, measured on test."""
    result = calibrate(overconfident(3.0), overconfident(3.0, seed=1))
    assert result["clips"] == 4000
    assert result["test"]["ece"] > 0.1
    assert result["test"]["ece_calibrated"] < 0.03


def test_without_val_clips_nothing_is_chosen() -> None:
    """Never on test."""
    result = calibrate(None, overconfident(3.0))
    assert (result["temperature"], result["clips"]) == (1.0, 0)
    assert result["test"]["ece"] == result["test"]["ece_calibrated"]
    assert math.isfinite(result["test"]["ece"])
    assert "val" not in result

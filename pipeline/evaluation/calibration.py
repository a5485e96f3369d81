"""Calibration: one temperature for the logits, and the expected calibration error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.accuracies import Prediction
from preprocessing import files

BINS = 15
MAX_TEMPERATURE = 20.0  # the temperature is sought between 1/20 and 20
BISECTIONS = 40
ROUNDING = 1e-9  # relative, of the exponential at either end


def temperature(logits_NK: Tensor, label_N: Tensor) -> float:
    """Return the T in [1/20, 20] that maximizes the likelihood of the labels under softmax(logits / T).

    After Guo et al. 2017, arXiv 1706.04599, section 4.2. The log-likelihood is concave in 1 / T, so bisection finds
    where its slope changes sign.
    """
    logits_NK = logits_NK.double()
    right_N = logits_NK.gather(1, label_N.unsqueeze(1)).squeeze(1)
    low, high = -math.log(MAX_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        expected_N = ((logits_NK * math.exp(-middle)).softmax(1) * logits_NK).sum(1)
        if (right_N - expected_N).mean() > 0:  # a lower T is likelier
            high = middle
        else:
            low = middle
    return math.exp((low + high) / 2)


def require_temperature(source: Path, calibration: dict[str, Any]) -> None:
    """Raise IntegrityError if a stored temperature is not a number in the range in which one is sought."""
    value = calibration.get("temperature", 1.0)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 1 / MAX_TEMPERATURE * (1 - ROUNDING) <= value <= MAX_TEMPERATURE * (1 + ROUNDING):
        raise files.IntegrityError(
            f"{source}: temperature {value!r} must be a number between {1 / MAX_TEMPERATURE:g} and "
            f"{MAX_TEMPERATURE:g}. Put the original file back."
        )


def calibration_error(probability_NK: Tensor, label_N: Tensor) -> float:
    """Return the ECE: the mean over clips of |accuracy - confidence| of their confidence bin, a fraction.

    15 bins of equal width (Guo et al. 2017, equation 3).
    """
    confidence_N, choice_N = probability_NK.double().max(1)
    right_N = (choice_N == label_N).double()
    bin_N = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    off = torch.zeros(BINS, dtype=torch.float64, device=bin_N.device).index_add_(0, bin_N, right_N - confidence_N)
    return off.abs().sum().item() / max(1, len(label_N))


def reliability(probability_NK: Tensor, label_N: Tensor) -> list[dict[str, float]]:
    """Return `confidence`, `accuracy` and `clips` of each bin of the ECE that has clips."""
    confidence_N, choice_N = probability_NK.double().max(1)
    right_N = (choice_N == label_N).double()
    bin_N = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    return [
        {
            "confidence": confidence_N[bin_N == place].mean().item(),
            "accuracy": right_N[bin_N == place].mean().item(),
            "clips": int((bin_N == place).sum()),
        }
        for place in bin_N.unique().tolist()
    ]


def calibrate(val: Prediction | None, test: Prediction | None) -> dict[str, Any]:
    """Choose a temperature on the val clips, and return it with the ECE on val and test.

    Without val clips the temperature stays 1: it is never chosen on test.

    Returns:
        `temperature`; `clips`, the number that it was chosen on; per split `ece` without it and `ece_calibrated`.
    """
    chosen = 1.0 if val is None else temperature(val.logits_NK, val.label_N)
    result: dict[str, Any] = {"temperature": chosen, "clips": 0 if val is None else len(val.label_N)}
    for name, prediction in (("val", val), ("test", test)):
        if prediction is not None:
            errors = (
                calibration_error((prediction.logits_NK.double() / t).softmax(1), prediction.label_N)
                for t in (1.0, chosen)
            )
            result[name] = dict(zip(("ece", "ece_calibrated"), errors, strict=True))
    return result

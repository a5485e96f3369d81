"""How sure a network may say it is: one temperature for its logits, and how far its confidence is off."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation.accuracies import Prediction

BINS = 15
HOTTEST = 20.0  # the temperature is sought between 1/20 and 20
HALVINGS = 40


def temperature(logits_NK: Tensor, label_N: Tensor) -> float:
    """T for which softmax(logits / T) makes the labels likeliest (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    The likelihood is concave in 1 / T, so the place where its slope changes sign is found by halving an interval.
    """
    logits_NK = logits_NK.double()
    right_N = logits_NK.gather(1, label_N.unsqueeze(1)).squeeze(1)
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected_N = ((logits_NK * math.exp(-middle)).softmax(1) * logits_NK).sum(1)
        if (right_N - expected_N).mean() > 0:  # sharper would be likelier still
            high = middle
        else:
            low = middle
    return math.exp((low + high) / 2)


def calibration_error(probability_NK: Tensor, label_N: Tensor) -> float:
    """ECE: mean over clips of |accuracy - confidence| of the bin their confidence falls into, a fraction.

    15 bins of equal width (Guo et al. 2017, equation 3).
    """
    confidence_N, choice_N = probability_NK.double().max(1)
    right_N = (choice_N == label_N).double()
    bin_N = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    off = torch.zeros(BINS, dtype=torch.float64, device=bin_N.device).index_add_(0, bin_N, right_N - confidence_N)
    return off.abs().sum().item() / max(1, len(label_N))


def calibrate(val: Prediction | None, test: Prediction | None) -> dict[str, Any]:
    """The temperature of the val clips, and ECE on val and test without it (`ece`) and with it (`ece_calibrated`).

    Without val clips the temperature stays 1: it is never chosen on test.
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

"""Metrics of logits (N, K) and labels (N,)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SMALLEST = math.log(2.0**-149)  # of a float32


def metrics(logits_NK: Tensor, label_N: Tensor) -> dict[str, float]:
    """Return accuracies as fractions, and the loss of `cross_entropy`.

    top5 is of min(5, K) choices; mean_class is the mean recall over the classes present.
    """
    best = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
    hit_N5 = best == label_N.unsqueeze(1)
    right_N = hit_N5[:, 0].double()
    classes = logits_NK.shape[1]
    seen_K = torch.bincount(label_N, minlength=classes)
    right_K = torch.bincount(label_N, weights=right_N, minlength=classes)
    return {
        "top1": right_N.mean().item(),
        "top5": hit_N5.any(1).double().mean().item(),
        "mean_class": (right_K[seen_K > 0] / seen_K[seen_K > 0]).mean().item(),
        "loss": cross_entropy(logits_NK, label_N),
    }


def cross_entropy(logits_NK: Tensor, label_N: Tensor) -> float:
    """Return the mean cross-entropy (nats per clip), without class weights and label smoothing.

    A mean probability of several predictions that float32 rounds to 0 counts as its smallest number, so that one clip
    does not make the loss infinite.
    """
    return nn.functional.cross_entropy(logits_NK.double().nan_to_num(nan=math.nan, neginf=SMALLEST), label_N).item()


def confusion(logits_NK: Tensor, label_N: Tensor) -> Tensor:
    """Return the confusion matrix (K, K) int64: clips by class (row) and first choice (column)."""
    classes = logits_NK.shape[1]
    pairs = label_N * classes + logits_NK.argmax(1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

"""Paired differences between two passes over the same samples: mean, percentile bootstrap interval, significance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What a difference must exceed to count, besides its noise: two points of accuracy, or of the metric's scale.
MIN_DIFFERENCE = 0.02
# Standard errors that it must exceed.
STANDARD_ERRORS = 3.0
# Samples whose change alone proves nothing.
FEW_SAMPLES = 3.0
RESAMPLES = 1000
# Ends of the 95 % interval, as quantiles of the bootstrap means.
ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Difference:
    """Mean of b - a over the same samples, in the metric's units."""

    mean: float
    low: float
    high: float
    """95 % interval of the paired percentile bootstrap (Efron & Tibshirani 1993, chapter 13)."""
    threshold: float
    """Smallest mean that counts: the largest of MIN_DIFFERENCE, STANDARD_ERRORS bootstrap standard errors and
    the weight of FEW_SAMPLES samples."""

    @property
    def significant(self) -> bool:
        """True if b is better than a by more than the threshold."""
        return self.mean > self.threshold

    @property
    def interval(self) -> list[float]:
        """Both ends."""
        return [self.low, self.high]


NO_DIFFERENCE = Difference(0.0, 0.0, 0.0, 0.0)


def paired(a_N: Tensor, b_N: Tensor, seed: int = 0) -> Difference:
    """Compute b - a over the same samples, with its interval and threshold.

    Args:
        a_N: Score of each sample in one pass.
        b_N: Score of the same samples, in the same order, in the other.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The passes differ in length.
    """
    a, b = a_N.double(), b_N.double()
    if len(a) != len(b):
        raise ValueError(f"passes of {len(a)} and {len(b)} samples cannot be paired: score the same samples in both")
    difference = b - a
    count = len(difference)
    scale = score_scale(b)
    mean = difference.mean().item()
    if not (difference != difference[0]).any():
        return Difference(mean, mean, mean, max(MIN_DIFFERENCE * scale, FEW_SAMPLES * scale / count))
    draw = torch.Generator().manual_seed(seed)
    pick = torch.randint(count, (RESAMPLES, count), generator=draw)
    means = difference[pick].mean(1)
    low, high = means.quantile(torch.tensor(ENDS, dtype=torch.float64)).tolist()
    error = means.std().item()
    return Difference(
        mean, low, high, max(MIN_DIFFERENCE * scale, STANDARD_ERRORS * error, FEW_SAMPLES * scale / count)
    )


def score_scale(scores_N: Tensor) -> float:
    """Return the scale that differences of a metric are measured in: 1 for scores in [0, 1], else their deviation."""
    if is_share(scores_N):
        return 1.0
    # One score has no deviation: its size stands for it.
    scale = scores_N.double().std().item() if len(scores_N) > 1 else scores_N.double().abs().sum().item()
    return max(scale, 1e-12)


def is_share(scores_N: Tensor) -> bool:
    """Return whether all scores lie in [0, 1], as those of accuracy do."""
    return bool((scores_N >= 0).all() and (scores_N <= 1).all())

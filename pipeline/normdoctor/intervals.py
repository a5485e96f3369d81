"""Paired differences between two passes over the same samples: mean, percentile bootstrap interval, significance.

Scores by batch statistics share the noise of their batch, so samples are not independent there. The interval and the
threshold are then widened by the design effect of the batches (Kish 1965), with the cluster-robust variance of
Cameron, Gelbach & Miller (2011) where each of the two passes has batches of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
# Their distance from the mean in standard errors, for a normal distribution.
NORMAL_END = 1.96
# Batches from which their noise can be estimated; with fewer, samples are taken as independent.
FEW_BATCHES = 4


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


def paired(
    a_N: Tensor, b_N: Tensor, seed: int = 0, batches: Sequence[Tensor] = (), samples_per_score: float = 1.0
) -> Difference:
    """Compute b - a over the same samples, with its interval and threshold.

    Args:
        a_N: Score of each sample in one pass.
        b_N: Score of the same samples, in the same order, in the other.
        seed: Seed of the bootstrap.
        batches: Number of each sample's batch (N,), for each pass in which samples share their batch's noise.
        samples_per_score: Samples that each score is the mean of, where a metric gives one score per batch.

    Raises:
        ValueError: The passes differ in length.
    """
    a, b = a_N.double(), b_N.double()
    if len(a) != len(b):
        raise ValueError(f"passes of {len(a)} and {len(b)} samples cannot be paired: score the same samples in both")
    difference = b - a
    count = len(difference)
    averaged = samples_per_score > 1 and count >= FEW_BATCHES
    samples = count * samples_per_score if averaged else count
    scale = score_scale(b)
    mean = difference.mean().item()
    if not (difference != difference[0]).any():
        return Difference(mean, mean, mean, max(MIN_DIFFERENCE * scale, FEW_SAMPLES * scale / samples))
    draw = torch.Generator().manual_seed(seed)
    pick = torch.randint(count, (RESAMPLES, count), generator=draw)
    means = difference[pick].mean(1)
    ends = means.quantile(torch.tensor(ENDS, dtype=torch.float64))
    wider = small_sample_factor(count) if averaged else design_effect(difference, batches)
    low, high = (mean + wider * (ends - mean)).tolist()
    error = wider * means.std().item()
    return Difference(
        mean, low, high, max(MIN_DIFFERENCE * scale, STANDARD_ERRORS * error, FEW_SAMPLES * scale / samples)
    )


def design_effect(values_N: Tensor, batches: Sequence[Tensor]) -> float:
    """Return how much wider an interval of the mean is than with independent samples; at least 1.

    Args:
        values_N: One value per sample.
        batches: One or two numberings (N,) of the batches whose members share noise.
    """
    numbers = [number_N for number_N in batches if FEW_BATCHES <= len(number_N.unique()) < len(number_N)]
    alone = standard_error(values_N)
    if not numbers or alone == 0:
        return 1.0
    squares = [standard_error(values_N, number_N) ** 2 for number_N in numbers]
    both = sum(squares) - (len(squares) - 1) * alone**2
    fewest = min(len(number_N.unique()) for number_N in numbers)
    return max(1.0, math.sqrt(max(both, *squares)) / alone * student_end(fewest - 1) / NORMAL_END)


def small_sample_factor(count: int) -> float:
    """Return how much wider an interval of a mean of `count` values is than the bootstrap's (Student's t)."""
    return math.sqrt(count / (count - 1)) * student_end(count - 1) / NORMAL_END


def standard_error(values_N: Tensor, number_N: Tensor | None = None) -> float:
    """Return the standard error of the mean, cluster-robust where the samples' batch numbers are given."""
    values = values_N.double()
    off = values - values.mean()
    if number_N is not None:
        _, group_N = number_N.unique(return_inverse=True)
        off = torch.zeros(int(group_N.max()) + 1, dtype=off.dtype).index_add_(0, group_N, off)
    groups = len(off)
    return math.sqrt(groups / max(1, groups - 1) * off.square().sum().item()) / len(values)


def student_end(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, by its expansion around the normal quantile (3 % off at most)."""
    z = NORMAL_END
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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

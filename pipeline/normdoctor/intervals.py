"""How sure a difference between two passes over the same samples is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# What a difference must exceed to count, besides its noise: two points, of accuracy or of the metric's spread.
LEAST = 0.02
ERRORS = 3.0
RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """Mean of b - a over the same samples, in the metric's units."""

    mean: float
    low: float
    high: float
    """95 % percentile interval of a paired bootstrap (Efron & Tibshirani 1993, chapter 13)."""
    threshold: float
    """LEAST, three bootstrap standard errors, or three samples, whichever is most."""

    @property
    def significant(self) -> bool:
        """Whether b is better than a beyond doubt."""
        return self.mean > self.threshold

    @property
    def interval(self) -> list[float]:
        """Low and high."""
        return [self.low, self.high]


def paired(a_N: Tensor, b_N: Tensor, seed: int = 0) -> Difference:
    """The difference b - a of scores (N,) of the same samples, with its interval. Passes that do not pair: by mean."""
    a, b = a_N.double(), b_N.double()
    if len(a) != len(b):
        raise ValueError(f"passes of {len(a)} and {len(b)} samples do not pair")
    difference = b - a
    count = len(difference)
    unit = spread(b)
    mean = difference.mean().item()
    if not (difference != difference[0]).any():
        return Difference(mean, mean, mean, max(LEAST * unit, ERRORS * unit / count))
    draw = torch.Generator().manual_seed(seed)
    pick = torch.randint(count, (RESAMPLES, count), generator=draw)
    means = difference[pick].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(mean, low, high, max(LEAST * unit, ERRORS * means.std().item(), ERRORS * unit / count))


def spread(scores_N: Tensor) -> float:
    """The unit differences are judged in: 1 for scores in [0, 1] (accuracy), else their standard deviation."""
    inside = bool((scores_N >= 0).all() and (scores_N <= 1).all())
    if inside:
        return 1.0
    # One score has no deviation: its size stands for it.
    unit = scores_N.double().std().item() if len(scores_N) > 1 else scores_N.double().abs().sum().item()
    return max(unit, 1e-12)

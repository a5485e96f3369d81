"""Statistics of a few paired runs: mean, standard deviation, Student's paired t-test with interval, Holm's correction.

Comparisons are paired by seed: two arms with the same seed share their data order and, where shapes agree, their first
weights, so the effect of the seed alone cancels in the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # of the intervals
# Differences whose standard deviation is below this share of their mean are equal up to rounding.
ROUNDING = 1e-12


class Comparison(NamedTuple):
    """A paired comparison of an arm with the baseline; None for what too few pairs leave undefined."""

    effect: float | None
    """Mean difference, arm minus baseline."""
    interval: tuple[float, float] | None
    """Confidence interval of the mean difference at LEVEL, from Student's t."""
    p: float | None
    """Two-sided p of Student's paired t-test."""


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1 degrees of freedom); None as the latter of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def compare(arm: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare an arm with the baseline by Student's paired t-test; its interval and its p come from the same t.

    Args:
        arm: One value per seed.
        baseline: The values of the same seeds, in the same order.

    Returns:
        The mean difference with its interval and p. Without pairs all three are None. With one pair, interval and p
        are None. Equal differences have no t: if they are zero, the interval is (0, 0) and p is 1; else there is no
        interval, and p is the smallest that the signs of n differences can have, 2 ** (1 - n).

    Raises:
        ValueError: The two have different lengths.
    """
    differences = [a - b for a, b in zip(arm, baseline, strict=True)]
    if not differences:
        return Comparison(None, None, None)
    mean, std = mean_std(differences)
    if std is None:
        return Comparison(mean, None, None)
    if std <= ROUNDING * abs(mean):
        return Comparison(mean, None, 2.0 ** (1 - len(differences))) if mean else Comparison(0.0, (0.0, 0.0), 1.0)
    test = stats.ttest_rel(arm, baseline)
    low, high = test.confidence_interval(LEVEL)
    return Comparison(mean, (float(low), float(high)), float(test.pvalue))


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
    """Correct p values for their number (Holm 1979): the chance of any false rejection stays at the level of the test.

    Args:
        p: p value by name; None is not counted and stays None.
    """
    known = sorted((value, name) for name, value in p.items() if value is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p)
    largest = 0.0
    for position, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - position) * value))
        corrected[name] = largest
    return corrected

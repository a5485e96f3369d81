"""statistics.py against printed tables, textbook cases and values computed by hand."""

import math

import numpy as np
import pytest

from tuning import statistics

# Student 1908: two soporifics on ten patients, additional hours of sleep. t = 4.062, p = 0.00283.
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Quantiles .975 of Student's t from printed tables, by degrees of freedom.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 29: 2.045}


def test_a_textbook_case() -> None:
    """Mean difference 1.58, standard deviation 1.23, so the interval is 1.58 -+ 2.262 * 1.23 / sqrt(10)."""
    effect, interval, p = statistics.compare(SECOND, FIRST)
    assert effect == pytest.approx(1.58)
    assert interval == pytest.approx((0.70, 2.46), abs=5e-3)
    assert p == pytest.approx(0.00283, abs=5e-6)


def test_the_sign_is_arm_minus_baseline() -> None:
    effect, interval, p = statistics.compare(FIRST, SECOND)
    assert effect == pytest.approx(-1.58)
    assert interval == pytest.approx((-2.46, -0.70), abs=5e-3)
    assert p == pytest.approx(0.00283, abs=5e-6)


@pytest.mark.parametrize(("freedom", "quantile"), TABLE.items())
def test_the_interval_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    """Differences -1, 0, ..., 0, 1 plus 3: mean 3, variance 2 / (n - 1)."""
    n = freedom + 1
    differences = [2.0, *[3.0] * (n - 2), 4.0]
    effect, interval, _ = statistics.compare(differences, [0.0] * n)
    half = quantile * math.sqrt(2 / (n - 1) / n)
    assert effect == pytest.approx(3)
    assert interval == pytest.approx((3 - half, 3 + half), abs=6e-4)


def test_interval_and_test_agree() -> None:
    """The interval excludes zero exactly where p is below .05, on differences around the border."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(200):
        _, interval, p = statistics.compare(rng.normal(1.2, 1, 5).tolist(), [0.0] * 5)
        assert interval is not None
        assert p is not None
        assert (interval[0] > 0 or interval[1] < 0) == (p < 0.05)
        below += p < 0.05
    assert 40 < below < 160  # both cases occur


def test_the_interval_covers_the_truth_as_often_as_it_claims() -> None:
    """95 % of 1,000 comparisons of five pairs; standard error 0.7 points."""
    rng = np.random.default_rng(5)
    intervals = [statistics.compare(rng.normal(0.3, 1, 5).tolist(), [0.0] * 5).interval for _ in range(1000)]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("arm", "baseline", "expected"),
    [
        ([], [], (None, None, None)),
        ([0.5], [0.25], (0.25, None, None)),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], (0.0, (0.0, 0.0), 1.0)),
        ([0.75] * 5, [0.25] * 5, (0.5, None, 0.0625)),  # 2 ** -4: no p of five signs is smaller
        ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3], (0.3, None, 0.25)),  # equal up to rounding
    ],
)
def test_too_few_pairs_and_equal_differences(arm: list[float], baseline: list[float], expected: tuple) -> None:
    """Without pairs, with one pair, and without variance."""
    effect, interval, p = statistics.compare(arm, baseline)
    assert effect == (None if expected[0] is None else pytest.approx(expected[0]))
    assert (interval, p) == expected[1:]


def test_seeds_must_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        statistics.compare([0.5, 0.6], [0.5])


def test_holm_is_that_of_the_paper() -> None:
    """Sorted p times 4, 3, 2, 1, never falling, never above 1; a name without p is not counted."""
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None}
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "none": None}
    assert statistics.holm(p) == pytest.approx(expected)
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_mean_and_sample_deviation() -> None:
    """n - 1."""
    assert statistics.mean_std([1.0, 3.0]) == (2.0, math.sqrt(2))
    assert statistics.mean_std([1.0]) == (1.0, None)

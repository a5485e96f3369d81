"""statistics.py against printed tables, exact cases and, where it is installed, scipy."""

import math

import numpy as np
import pytest

from tuning import statistics

# Two-sided critical values of Student's t from printed tables: degrees of freedom, t, p.
TABLE = [
    (1, 12.706, 0.05), (2, 4.303, 0.05), (3, 3.182, 0.05), (4, 2.776, 0.05), (4, 4.604, 0.01), (5, 2.571, 0.05),
    (6, 2.447, 0.05), (9, 2.262, 0.05), (9, 3.250, 0.01), (10, 2.228, 0.05), (29, 2.045, 0.05), (30, 2.042, 0.05),
]  # fmt: skip


@pytest.mark.parametrize(("freedom", "t", "p"), TABLE)
def test_t_is_that_of_the_tables(freedom: int, t: float, p: float) -> None:
    """To the tables' three decimals, and even in t."""
    assert statistics.t_two_sided(t, freedom) == pytest.approx(p, rel=2e-3)
    assert statistics.t_two_sided(-t, freedom) == statistics.t_two_sided(t, freedom)


@pytest.mark.parametrize("freedom", range(1, 40))
def test_t_is_a_probability_that_falls(freedom: int) -> None:
    """From 1 at 0 towards 0, for every number of degrees of freedom."""
    values = [statistics.t_two_sided(t, freedom) for t in np.linspace(0, 30, 200)]
    assert values[0] == 1.0
    assert np.diff(values).max() < 1e-14
    assert 0 <= values[-1] < 0.03


def test_t_equals_scipys() -> None:
    """An oracle of its own kind."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed; the tables above are the oracle")
    for freedom in range(1, 60):
        for t in np.linspace(0, 12, 49):
            assert statistics.t_two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-12)


def test_paired_p_of_a_textbook_case() -> None:
    """Student 1908: two soporifics on ten patients, t = 4.062, p = 0.00283."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    assert statistics.paired_p(differences) == pytest.approx(0.00283, abs=5e-6)


@pytest.mark.parametrize(("differences", "p"), [([0.0] * 5, 1.0), ([0.1] * 5, 0.0625), ([0.3], None)])
def test_differences_without_spread(differences: list[float], p: float | None) -> None:
    """No difference is no finding, and no p is smaller than its signs allow."""
    assert statistics.paired_p(differences) == p


def test_holm_is_that_of_the_paper() -> None:
    """Sorted p times 4, 3, 2, 1, never falling, never above 1; what has no p is not counted."""
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None}
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "none": None}
    assert statistics.holm(p) == pytest.approx(expected)
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_mean_and_sample_deviation() -> None:
    """n - 1."""
    assert statistics.mean_std([1.0, 3.0]) == (2.0, math.sqrt(2))
    assert statistics.mean_std([1.0]) == (1.0, None)


def test_the_interval_holds_all_of_two_values_and_is_the_same_each_time() -> None:
    """With two values a quarter of the resamples is the smaller one twice."""
    assert statistics.bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)
    assert statistics.bootstrap_interval([5.0]) is None
    values = list(np.random.default_rng(1).normal(size=7))
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values)


@pytest.mark.parametrize(("n", "expected"), [(5, 0.84), (10, 0.90)])
def test_how_often_the_interval_holds_the_truth(n: int, expected: float) -> None:
    """The figures in the docstring, of 600 studies each (standard error 1.6 points)."""
    rng = np.random.default_rng(n)
    intervals = [statistics.bootstrap_interval(rng.normal(0.3, 1, n).tolist()) for _ in range(600)]
    held = np.mean([low <= 0.3 <= high for low, high in intervals])
    assert held == pytest.approx(expected, abs=0.04)

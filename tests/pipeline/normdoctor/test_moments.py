"""moments: by hand, in the precision that is asked for, and compared by exact distances."""

import math

import pytest
import torch

from pipeline.normdoctor.moments import (
    EXACT,
    MEASURED,
    PASSING,
    Distance,
    Moments,
    Precision,
    distance,
    log_variance_ratio,
    mean_shift,
    moments,
    normalize,
    variance_ratio,
)


def of(mean: list[float], variance: list[float], count: float = 1.0) -> Moments:
    """Moments from plain numbers."""
    return Moments(torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64), count)


def test_moments_by_hand() -> None:
    """Two rows of two channels and two places: the biased variance, and four values per channel."""
    x = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[5.0, 7.0], [2.0, 2.0]]])
    mean, variance, count = moments(x)
    assert mean.tolist() == [4.0, 1.0]
    assert variance.tolist() == [5.0, 1.0]
    assert count == 4


def test_small_terms_of_bfloat16_are_kept() -> None:
    """1,000 ones, each too small beside a bfloat16 sum of 256 to change it."""
    mean, _, _ = moments(torch.ones(1000, 1, dtype=torch.bfloat16))
    assert mean.item() == 1.0
    assert mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("precision", "kept", "error"),
    [(EXACT, torch.float64, 1e-16), (MEASURED, torch.float64, 1e-7), (PASSING, torch.float32, 1e-7)],
)
def test_a_pass_computes_and_keeps_moments_in_its_precision(
    precision: Precision, kept: torch.dtype, error: float
) -> None:
    """The mean of 0.1 and 0.2 in float32: exact, or rounded before it is kept."""
    x = torch.tensor([[0.1], [0.2], [0.4]])
    found = Moments.of(x, precision)
    true = x.double().mean().item()
    assert found.mean_C.dtype == found.variance_C.dtype == kept
    assert abs(found.mean_C.item() - true) <= error
    assert (found.mean_C.double().item() == true) is (precision is EXACT)
    assert found.count == 3


def test_the_union_has_the_variance_between_the_parts() -> None:
    """One value 0 and three values 4: mean 3, variance 3."""
    union = of([0.0], [0.0], 1).merge(of([4.0], [0.0], 3))
    assert (union.mean_C.item(), union.variance_C.item(), union.count) == (3.0, 3.0, 4)


def test_moments_of_nothing_are_neutral() -> None:
    """Merged from either side."""
    some, none = of([1.0, 1.0], [1.0, 1.0], 3.0), of([0.0, 0.0], [0.0, 0.0], 0.0)
    for merged in (some.merge(none), none.merge(some)):
        assert merged.count == 3
        assert torch.equal(merged.mean_C, some.mean_C)
        assert torch.equal(merged.variance_C, some.variance_C)
    assert none.merge(none).count == 0


def test_normalize_by_hand() -> None:
    """(3 - 1) / sqrt(3 + 1) * 5 + 7, in the type of x."""
    x = torch.tensor([[3.0]], dtype=torch.bfloat16)
    y = normalize(x, torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([5.0]), torch.tensor([7.0]), 1.0)
    assert y.item() == 12.0
    assert y.dtype == torch.bfloat16
    assert normalize(x, torch.tensor([1.0]), torch.tensor([3.0]), None, None, 1.0).item() == 1.0


def test_the_shift_is_in_pooled_deviations_and_the_median_over_channels() -> None:
    """Variances 1 and 3 pool to 2; of the shifts 1, 2 and 100 deviations the middle one counts, whatever its sign."""
    a, b = of([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), of([2**0.5, -2 * 2**0.5, 100 * 2**0.5], [3.0, 3.0, 3.0])
    assert mean_shift(a, b) == pytest.approx(2.0)
    assert mean_shift(b, a) == pytest.approx(2.0)


def test_the_variance_ratio_is_the_larger_over_the_smaller() -> None:
    """From either side, with a sign for its logarithm, and at most a million."""
    a, b = of([0.0, 0.0, 0.0], [1.0, 8.0, 1.0]), of([0.0, 0.0, 0.0], [4.0, 2.0, 1000.0])
    assert variance_ratio(a, b) == pytest.approx(4.0)
    assert variance_ratio(b, a) == pytest.approx(4.0)
    assert log_variance_ratio(a, b) == pytest.approx(-math.log(4))
    assert variance_ratio(of([0.0], [0.0]), of([0.0], [1.0])) == 1e6
    assert distance(a, b) == (0.0, variance_ratio(a, b))


@pytest.mark.parametrize(
    ("shift", "ratio", "beyond"), [(0.25, 2.0, False), (0.26, 1.0, True), (0.0, 2.1, True), (0.0, 1.0, False)]
)
def test_either_distance_may_be_beyond_its_limit(shift: float, ratio: float, beyond: bool) -> None:
    """A quarter of a deviation, or twice the variance; the limits themselves are not beyond."""
    assert Distance(shift, ratio).beyond_limit is beyond


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_numbers_are_seen_in_mean_and_variance(bad: float) -> None:
    """Each alone."""
    assert of([0.0], [1.0]).finite
    assert not of([bad], [1.0]).finite
    assert not of([0.0], [bad]).finite

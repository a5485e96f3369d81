"""intervals: paired differences, their noise, and what counts."""

import pytest
import torch

from pipeline.normdoctor.intervals import design_effect, paired, score_scale, standard_error, student_end


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """100 draws of 200 pairs whose true difference is 0.1: about 95 intervals hold it."""
    covered = 0
    for seed in range(100):
        draw = torch.Generator().manual_seed(seed)
        a = torch.rand(200, generator=draw) < 0.6
        b = a ^ (torch.rand(200, generator=draw) < 0.2)
        b = torch.where(a, a & (torch.rand(200, generator=draw) < 0.9), torch.rand(200, generator=draw) < 0.4)
        difference = paired(a, b, seed)
        covered += difference.low <= 0.1 <= difference.high
    assert 88 <= covered <= 100


def test_pairing_makes_a_small_gain_on_the_same_samples_certain() -> None:
    """5 of 100 samples turn right, none wrong: significant at 2 points only with more samples."""
    a = torch.arange(2000) % 2 == 0
    b = a | (torch.arange(2000) % 20 == 1)
    assert paired(a, b).mean == pytest.approx(0.05)
    assert paired(a, b).significant
    assert not paired(a[:40], b[:40]).significant
    assert not paired(b, a).significant


def test_a_constant_difference_has_no_noise_but_must_exceed_two_points() -> None:
    """And two samples prove nothing."""
    zero = torch.zeros(500)
    assert not paired(zero, zero).significant
    assert not paired(zero, zero + 0.01).significant
    assert paired(zero, zero + 0.5).significant
    assert not paired(zero[:2], zero[:2] + 1).significant


def test_scores_outside_0_and_1_are_measured_in_their_deviation() -> None:
    """Minus a loss of some hundreds: two points of accuracy would mean nothing."""
    loss = -100 * torch.rand(400, generator=torch.Generator().manual_seed(0))
    assert score_scale(loss) > 10
    assert not paired(loss, loss + 0.1).significant
    assert paired(loss, loss + 5).significant


def test_one_score_alone_is_judged_by_its_size() -> None:
    """It has no deviation: a threshold of NaN would let nothing count."""
    assert score_scale(torch.tensor([5.0])) == 5.0


def test_passes_of_different_samples_do_not_pair() -> None:
    """ValueError with both lengths."""
    with pytest.raises(ValueError, match="passes of 3 and 4 samples cannot be paired"):
        paired(torch.zeros(3), torch.zeros(4))


def test_the_interval_is_that_of_the_normal_distribution_at_95_percent() -> None:
    """1,000 differences with deviation 1: 1.96 standard errors on either side (a 90 % interval has 1.64)."""
    draw = torch.Generator().manual_seed(1)
    a = torch.zeros(1000)
    b = torch.randn(1000, generator=draw)
    difference = paired(a, b)
    error = b.std().item() / 1000**0.5
    assert difference.high - difference.mean == pytest.approx(1.96 * error, rel=0.08)
    assert difference.mean - difference.low == pytest.approx(1.96 * error, rel=0.08)
    assert difference.interval == [difference.low, difference.high]


def test_the_threshold_is_the_largest_of_three() -> None:
    """Two points of many equal samples; three standard errors; the weight of three samples of four."""
    zero = torch.zeros(1000)
    assert paired(zero, zero).threshold == pytest.approx(0.02)
    half = (torch.arange(100) % 2).double()
    assert paired(torch.zeros(100), half).threshold == pytest.approx(3 * 0.05, rel=0.1)
    for count, threshold in ((4, 3 / 4), (10_000, 0.02)):  # three standard errors: about 0.65 and 0.0003
        one = torch.zeros(count)
        one[0] = 1
        assert paired(torch.zeros(count), one).threshold == threshold
    assert not paired(torch.zeros(20), (torch.arange(20) < 1).double()).significant
    assert paired(torch.zeros(2), torch.ones(2)).threshold == 1.5


def test_a_score_per_batch_stands_for_all_its_samples() -> None:
    """30 scores of 30 samples each: 7 points count, as they do not for 30 samples; three scores say too little."""
    draw = torch.Generator().manual_seed(0)
    a = 0.5 + 0.05 * torch.randn(30, generator=draw).double()
    b = a + 0.07 + 0.02 * torch.randn(30, generator=draw).double()
    assert paired(a, b, samples_per_score=30).significant
    assert not paired(a, b).significant
    assert paired(a[:3], a[:3] + 0.07, samples_per_score=30).threshold == 1.0
    narrow, wide = paired(a[:4], b[:4]), paired(a[:4], b[:4], samples_per_score=30)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def noisy_batches(seed: int, own: float = 1.0, other: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """320 differences around 0 with noise of their own and of their batch in one pass, or in two; the batches."""
    draw = torch.Generator().manual_seed(seed)
    first, second = torch.arange(320) // 20, torch.randperm(320, generator=draw) // 20
    noise = torch.randn(16, 2, generator=draw)
    return own * noise[first, 0] + other * noise[second, 1] + torch.randn(320, generator=draw), first, second


def misses(own: float, other: float, *, respected: bool) -> int:
    """Of 200 intervals of a difference of 0, how many miss it."""
    missed = 0
    for seed in range(200):
        differences, *batches = noisy_batches(seed, own, other)
        one = paired(torch.zeros(320), differences, batches=batches if respected else ())
        missed += not one.low <= 0 <= one.high
    return missed


@pytest.mark.parametrize(("own", "other"), [(1.0, 0.0), (0.7, 0.7), (0.0, 0.0)])
def test_an_interval_over_batches_misses_as_often_as_it_says(own: float, other: float) -> None:
    """5 %: at most 16 of 200 by chance, with noise of the batches of one pass, of both, or of none."""
    assert misses(own, other, respected=True) <= 16


def test_an_interval_over_samples_misses_far_too_often_where_batches_share_noise() -> None:
    """The control: it holds the truth in little more than half of all cases."""
    assert misses(1.0, 0.0, respected=False) > 60


def test_batches_of_one_or_too_few_say_nothing_about_their_noise() -> None:
    """Then samples count as independent."""
    values = torch.arange(12.0)
    assert design_effect(values, [torch.arange(12)]) == 1.0
    assert design_effect(values, [torch.arange(12) // 4]) == 1.0
    assert design_effect(values, [torch.arange(12) // 2]) > 1.5
    assert design_effect(torch.ones(12), [torch.arange(12) // 2]) == 1.0


def test_the_standard_error_of_equal_members_is_that_of_their_batches() -> None:
    """Four batches of three equal values: as four values."""
    four = torch.tensor([0.0, 1.0, 2.0, 5.0])
    assert standard_error(four) == pytest.approx(four.std().item() / 2)
    assert standard_error(four.repeat_interleave(3), torch.arange(12) // 3) == pytest.approx(four.std().item() / 2)


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (15, 2.131), (61, 2.000)])
def test_few_batches_widen_the_interval_as_students_t_does(freedom: int, quantile: float) -> None:
    """Within 4 %, from published tables."""
    assert student_end(freedom) == pytest.approx(quantile, rel=0.04)

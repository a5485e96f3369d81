"""Checks and proofs on evidence that is made by hand: exact limits, shares and precedence."""

import math
from collections import Counter
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor import layer_checks, score_checks
from pipeline.normdoctor.causes import (
    GeneralizationLoss,
    generalization_losses,
    prove,
    suspicions,
    try_remedies,
    unexplained_share,
    unnamed,
)
from pipeline.normdoctor.checks import CHECKS, REST, fired
from pipeline.normdoctor.collector import Seen
from pipeline.normdoctor.evidence import Evidence, Group, History
from pipeline.normdoctor.finding import Advice, Check, Finding, Fired, listed
from pipeline.normdoctor.layers import Layer
from pipeline.normdoctor.measure import gather
from pipeline.normdoctor.moments import Moments
from pipeline.normdoctor.remedies import REMEDIES
from pipeline.normdoctor.verdict import verdict

COUNT = 100


def right(share: float, count: int = COUNT) -> Tensor:
    """Scores of `count` samples, the first of them right."""
    return (torch.arange(count) < round(share * count)).double()


def of(mean: float, variance: float = 1.0, count: float = 10.0) -> Moments:
    """Moments of one channel."""
    return Moments(torch.tensor([mean]).double(), torch.tensor([variance]).double(), count)


def layer(**changed: Any) -> Layer:
    """A healthy layer of one channel."""
    values = {"mean": 0.0, "variance": 1.0, "scale": 1.0, "momentum": 0.1, "updates": 100, "eps": 1e-5} | changed
    mean, variance, scale = (torch.tensor([values[name]]) for name in ("mean", "variance", "scale"))
    return Layer(mean, variance, scale, values["momentum"], values["updates"], values["eps"])


def evidence(layers: dict[str, Layer] | None = None, **changed: Any) -> Evidence:
    """Evidence of a healthy model with one layer `norm`, called once."""
    layers = {"norm": layer()} if layers is None else layers
    population = {(name, 0): of(0.0) for name in layers}
    seen = Seen(population, {}, population, Counter(dict.fromkeys(population, 10)), Counter())
    values: dict[str, Any] = {
        "training_modules": [],
        "stuck_modules": [],
        "changed_buffers": [],
        "averaged": None,
        "layers": layers,
        "score": {"A": right(0.5), "B": right(0.9), "C": right(0.5), "D": right(0.9)},
        "nonfinite_outputs": 0.0,
        "sizes": Counter({32: 10}),
        "history": History(),
        "train": seen,
        "given": seen,
        "held_out": seen,
    }
    return Evidence(**values | changed)


def found(*names: str) -> list[Fired]:
    """Findings of these checks."""
    return [Fired(name, CHECKS[name], Finding(f"seen by {name}")) for name in names]


def test_a_healthy_model_gives_no_finding() -> None:
    """The control of all that follows."""
    assert fired(CHECKS, evidence({"norm": layer(variance=1.2)})) == []


def test_a_cause_has_the_share_of_the_gap_that_its_remedy_recovers() -> None:
    """30 of 40 points, and the evaluation samples' score before and after."""
    (cause,) = prove(evidence(), found("stale"), {"joint": {"A": right(0.8), "C": right(0.7)}})
    assert (cause.check, cause.before, cause.after) == ("stale", 0.5, 0.7)
    assert cause.recovered == cause.cumulative == pytest.approx(0.75)
    assert cause.interval[0] < 0.2 < cause.interval[1]
    assert cause.remedy == REMEDIES["joint"].advice.text


def test_a_remedy_that_recovers_more_than_the_gap_recovers_all_of_it() -> None:
    """50 points of 40; without evaluation samples the training samples are reported."""
    (cause,) = prove(evidence(), found("stale"), {"joint": {"A": right(1.0)}})
    assert cause.recovered == 1.0
    assert (cause.before, cause.after) == (0.5, 1.0)


def test_a_remedy_that_recovers_nothing_proves_nothing() -> None:
    """Neither does one that is not to be had."""
    assert prove(evidence(), found("stale"), {"joint": {"A": right(0.51)}}) == []
    assert prove(evidence(), found("ranks", "leakage"), {"joint": {"A": right(0.7)}}) == []


def test_of_two_checks_with_one_remedy_the_first_is_the_cause() -> None:
    """The order of CHECKS is that of precedence."""
    causes = prove(evidence(), found("lone", "stale"), {"joint": {"A": right(0.9)}})
    assert [cause.check for cause in causes] == ["lone"]


@pytest.mark.parametrize(("joint", "named"), [(0.5, ["reuse"]), (0.89, ["stale"]), (0.7, ["reuse"])])
def test_reuse_is_the_cause_of_what_a_shared_set_does_not_recover(joint: float, named: list[str]) -> None:
    """Reuse is harmless where fresh shared statistics suffice; where they do not, it supersedes staleness."""
    tried = {"joint": {"A": right(joint)}, "per_call": {"A": right(0.9)}}
    assert [cause.check for cause in prove(evidence(), found("stale", "reuse"), tried)] == named


def test_a_check_supersedes_only_what_it_explains() -> None:
    """Ranks recover 5 of 40 points, staleness 40: both are causes, the larger first, and the second adds nothing."""
    tried = {"joint": {"A": right(0.9)}, "ranks": {"A": right(0.6)}}
    causes = prove(evidence(), found("ranks", "stale"), tried)
    assert [cause.check for cause in causes] == ["stale", "ranks"]
    assert [cause.cumulative for cause in causes] == pytest.approx([1.0, 1.0])
    assert causes[1].recovered == pytest.approx(0.25)


def test_the_mode_is_ranked_first_and_measured_as_found() -> None:
    """From 10 % as found to 50 % in eval mode, half of the way to B."""
    seen = evidence()
    seen.score.update(found_A=right(0.1), found_C=right(0.2), given_C=right(0.5), given_D=right(0.5))
    causes = prove(seen, found("mode", "stale"), {"eval": {"A": right(0.5)}, "joint": {"A": right(0.9)}})
    assert [cause.check for cause in causes] == ["mode", "stale"]
    assert (causes[0].before, causes[0].after, causes[0].recovered) == pytest.approx((0.2, 0.5, 0.5))
    assert [cause.is_mode for cause in causes] == [True, False]
    assert causes[1].cumulative == pytest.approx(1.0)


@pytest.mark.parametrize(("after", "proven"), [(0.7, True), (0.53, False)])
def test_a_remedy_must_move_the_evaluation_samples_too(after: float, proven: bool) -> None:
    """A gains 40 points; C 20, or 3, which excludes 20: then nothing is proven, and the verdict says what was found."""
    seen, tried = evidence(), {"joint": {"A": right(0.9), "C": right(after)}}
    causes = prove(seen, found("stale"), tried)
    left = suspicions(found("stale"), causes, seen, tried)
    assert [cause.check for cause in causes] == ["stale"] * proven
    assert [one.check for one in left] == ["stale"] * (not proven)
    text = verdict(seen, causes, left, [], 1.0 - proven, [])
    assert ("from 50.0 % to 53.0 %: no proof" in text) is not proven
    assert ("suspected, not proven: stale" in text) is not proven


def test_few_evaluation_samples_do_not_refute_a_remedy() -> None:
    """Six samples, one more of them right: their interval holds the training samples' gain."""
    seen = evidence(score={"A": right(0.5), "B": right(0.9), "C": right(0.5, 6), "D": right(0.9, 6)})
    tried = {"joint": {"A": right(0.9), "C": right(4 / 6, 6)}}
    assert [cause.check for cause in prove(seen, found("stale"), tried)] == ["stale"]


@pytest.mark.parametrize(
    ("a", "c", "fired_", "named"),
    [
        (0.85, 0.8, (), ["foreign"]),
        (0.75, 0.5, (), []),
        (0.85, 0.52, (), []),
        (0.5, 0.9, (), ["foreign"]),
        (0.4, 0.9, (), []),
        (0.85, 0.8, ("stale",), ["stale"]),
        (0.85, 0.8, ("small",), []),
    ],
)
def test_fresh_statistics_that_cure_name_the_cause(
    a: float, c: float, fired_: tuple[str, ...], named: list[str]
) -> None:
    """From 80 % of the gap on, or by C alone where A does not fall; where no check explains it."""
    tried = {"joint": {"A": right(a), "C": right(c)}}
    every = [*found(*fired_), *unnamed(evidence(), found(*fired_), tried)]
    causes = prove(evidence(), every, tried)
    assert [cause.check for cause in causes] == named
    if named == ["foreign"]:
        assert "they belong to other data or other weights (norm: running mean 0.00" in causes[0].evidence
        assert unexplained_share(evidence(), causes, every, tried) == pytest.approx(1 - (a - 0.5) / 0.4)


@pytest.mark.parametrize(("name", "check"), [("lone", "lone"), ("dropped", "dropout")])
def test_a_cause_must_cost_what_was_lost(name: Literal["lone", "dropped"], check: str) -> None:
    """A gap of 40 points: statistics that cost 25 explain it, those that cost 15 do not."""
    for score, costs in ((0.65, True), (0.75, False)):
        seen = evidence()
        assert seen.costs_as_much(name)
        seen.score[name] = right(score)
        assert seen.costs_as_much(name) is costs
    one = Fired(check, CHECKS[check], Finding("seen", remedy=None))
    assert prove(seen, [one, *found("stale")], {"joint": {"A": right(0.9)}})[0].check == "stale"


def test_evaluation_that_fails_as_found_is_the_mode() -> None:
    """Batches of one in training mode, where torch refuses."""
    seen = evidence(training_modules=["norm"], failure="Expected more than 1 value per channel")
    finding = score_checks.mode(seen)
    assert finding is not None
    assert "as it is, evaluation fails: Expected more than 1 value" in finding.evidence
    assert finding.fails
    assert not score_checks.mode(evidence(training_modules=["norm"])).fails  # type: ignore[union-attr]


@pytest.mark.parametrize(("gain", "named"), [(0.06, []), (0.2, ["foreign"])])
def test_without_a_gap_a_tenth_of_a_loss_must_be_gained(gain: float, named: list[str]) -> None:
    """Noise of running statistics costs a few hundredths of a loss in any healthy network of small batches."""
    loss = -1 - 0.1 * right(0.5).double()
    seen = evidence(score={name: loss - worse for name, worse in (("A", 0), ("B", 0.5), ("C", 0), ("D", 0.5))})
    tried = {"joint": {"A": loss + gain, "C": loss + gain}}
    assert [one.name for one in unnamed(seen, [], tried)] == named


@pytest.mark.parametrize(("gain", "count", "named"), [(3, 2, []), (3, 8, ["foreign"]), (1, 8, [])])
def test_small_gains_of_both_parts_are_weighed_together(gain: int, count: int, named: list[str]) -> None:
    """Three points of A and of C, each within its own noise, count where all samples leave no doubt; one never does."""
    before = right(0.5, 100 * count)
    after = before.roll(4 * count)  # as many samples turn wrong as right
    after[-gain * count :] = 1
    seen = evidence(score=dict.fromkeys(("A", "B", "C", "D"), before))
    assert not seen.paired(before, after).significant
    tried = {"joint": {"A": after, "C": after}}
    assert [cause.check for cause in prove(seen, unnamed(seen, [], tried), tried)] == named
    # The same gains of a loss are less than a tenth of it.
    seen = evidence(score=dict.fromkeys(("A", "B", "C", "D"), before - 10))
    tried = {"joint": {"A": after - 10, "C": after - 10}}
    assert prove(seen, found("foreign"), tried) == []


@pytest.mark.parametrize(
    ("way", "astray", "momentum", "lags"),
    [(0.3, 0.0, 0.01, True), (0.3, 2.0, 0.01, False), (1.0, 0.0, 0.01, False), (0.3, 0.0, 0.1, False)],
)
def test_statistics_on_the_way_from_their_initial_values_lag(
    way: float, astray: float, momentum: float, lags: bool
) -> None:
    """A layer that counts no updates: all channels at one share of the way, or elsewhere, arrived, or soon there."""
    goal = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([9.0, 4.0, 16.0])
    off = torch.tensor([astray, -astray, astray])
    own = Layer(way * goal[0] + off, 1 + way * (goal[1] - 1), torch.ones(3), momentum, 0, 1e-5)
    seen = evidence({"norm": own})
    seen.train.population["norm", 0] = Moments(goal[0].double(), goal[1].double(), 10.0)
    finding = layer_checks.stale(seen)
    assert bool(finding) is lags
    if finding:
        assert "remembers about 100 updates: the statistics are still on the way" in finding.evidence


def test_what_fails_with_an_error_comes_before_every_cause() -> None:
    """A batch of one that torch rejects cannot have left bad statistics: it is the failure, and no cause.

    Unless the gap is one that a user would notice.
    """
    rejected = {"sizes": Counter({32: 9, 1: 1}), "rejects_one": "norm"}
    for before, fails in ((0.84, False), (0.86, True)):
        scores = {"A": right(before, 1000), "B": right(0.9, 1000)}
        seen = evidence({"norm": layer(mean=1.0, updates=20)}, score=scores, **rejected)
        every, tried = fired(CHECKS, seen), {"joint": {"A": right(0.9, 1000)}}
        causes = prove(seen, every, tried)
        left = suspicions(every, causes, seen, tried)
        assert [cause.check for cause in causes] == ["stale"]
        assert [(one.check, one.fails) for one in left] == [("lone", fails)]
    text = verdict(seen, causes, left, [], 0.0, [])
    assert text.startswith("Failure (lone): 1 training batch(es) of one sample, the others of 32: torch rejects them")
    assert text.count("torch rejects them") == 1


@pytest.mark.parametrize(("given", "reads"), [(0.9, True), (0.5, False)])
def test_the_gap_is_that_of_the_loaders_own_batches_where_they_score_better(given: float, reads: bool) -> None:
    """Shuffled, batch statistics gain nothing; the loader's own batches gain 40 points or nothing."""
    seen = evidence({"norm": layer(variance=1.2)}, score={"A": right(0.5), "B": right(0.5)})
    seen.score.update(given_A=right(0.5), given_B=right(given), mixed=right(0.5))
    assert seen.has_gap is reads
    assert seen.gap == pytest.approx(given - 0.5)
    left = suspicions(fired(CHECKS, seen), [], seen, {})
    assert [one.check for one in left] == ["leakage"] * reads
    text = verdict(seen, [], left, [], 1.0, [])
    assert ("40.0 points in the training loader's own batches (50.0 % by running statistics" in text) is reads
    assert ("not to blame" in text) is not reads


def test_normalization_is_cleared_only_where_nothing_fires_and_every_output_is_finite() -> None:
    """No gap in any of the three."""
    scores = {"A": right(0.9), "B": right(0.9)}
    clear, suspected = evidence(score=scores), evidence(score=scores, sizes=Counter({32: 9, 1: 1}))
    assert "not to blame" in verdict(clear, [], [], [], 0.0, [])
    left = suspicions(fired(CHECKS, suspected), [], suspected, {})
    assert verdict(suspected, [], left, [], 0.0, []).startswith("No significant normalization gap: ")
    text = verdict(evidence(score=scores, nonfinite_outputs=0.25), [], [], [], 0.0, [])
    assert "25 % of the training samples have outputs or scores that are not finite" in text
    assert "not to blame" not in text
    assert "not to blame" not in verdict(evidence(score=scores, metric_is_doubtful=True), [], [], [], 0.0, [])
    for check, cleared in (("inputs", False), ("shift", False), ("overfit", True)):
        loss = GeneralizationLoss(check, 0.0, "seen", "", 0.5, 0.5, [0.0, 0.0])
        assert ("not to blame" in verdict(clear, [], [], [loss], 0.0, [])) is cleared


def test_facts_without_proof_are_suspicions_and_other_findings_are_dropped() -> None:
    """`lone` is a fact; `stale` and `reuse` are nothing without an effect. A cause is not a suspicion."""
    assert [s.check for s in suspicions(found("lone", "stale", "reuse", "padding"), [], evidence(), {})] == ["lone"]
    causes = prove(evidence(), found("lone"), {"joint": {"A": right(0.9)}})
    assert suspicions(found("lone"), causes, evidence(), {}) == []


def test_the_share_that_no_cause_recovers() -> None:
    """30 of 40 points are recovered, a quarter is left; without a gap nothing is."""
    tried = {"joint": {"A": right(0.8)}}
    causes = prove(evidence(), found("stale"), tried)
    assert unexplained_share(evidence(), causes, found("stale"), tried) == pytest.approx(0.25)
    assert unexplained_share(evidence(), [], found("stale"), tried) == 1.0
    seen = evidence(score={"A": right(0.9), "B": right(0.9)})
    assert unexplained_share(seen, [], [], {}) == 0.0


@pytest.mark.parametrize(("unexplained", "reported"), [(0.19, False), (0.21, True)])
def test_the_verdict_tells_of_more_than_a_fifth_that_no_cause_recovers(unexplained: float, reported: bool) -> None:
    """Causes explain the gap from 80 % on."""
    causes = prove(evidence(), found("stale"), {"joint": {"A": right(0.8)}})
    text = verdict(evidence(), causes, [], [], unexplained, [])
    assert ("21 % of the gap is unexplained." in text) is reported
    assert ("unexplained" in text) is reported


@pytest.mark.parametrize(("mean", "scored"), [(19.5, {"A"}), (100.0, {"A", "C"})])
def test_evaluation_samples_are_scored_under_remedies_that_help_training_samples(mean: float, scored: set[str]) -> None:
    """Numbers 0 to 39, right above 19.5: a running mean of 100 costs half of A, the true one nothing.

    A recalibration is scored on both in any case.
    """
    x = torch.arange(40.0)[:, None]
    model = nn.Sequential(nn.BatchNorm1d(1)).eval()
    nn.init.constant_(model[0].running_mean, mean)  # type: ignore[arg-type]
    tried = try_remedies(
        *gather(
            model,
            [(x, x)],
            [(x, x)],
            lambda net, batch: (net(batch[0]), net(batch[0]))[0],
            lambda output, batch: ((output > 0) == (batch[1] > 19.5))[:, 0],
            None,
        )
    )
    assert set(tried["joint"]) == {"A", "C"}
    assert set(tried["per_call"]) == scored
    assert tried["joint"]["A"].all()
    assert set(tried["target"]) == {"C"}


def test_the_mode_is_proven_in_the_evaluation_loaders_own_batches() -> None:
    """As found, batches of the training size score as in eval mode; the loader's own batches cost 40 points."""
    seen = evidence()
    seen.score.update(found_A=right(0.5), found_C=right(0.1), given_C=right(0.5), given_D=right(0.5))
    (cause,) = prove(seen, found("mode"), {"eval": {"A": right(0.5)}})
    assert (cause.before, cause.after, cause.recovered) == (0.1, 0.5, 1.0)
    seen.score.update(found_C=right(0.5))
    assert prove(seen, found("mode"), {"eval": {"A": right(0.5)}}) == []


@pytest.mark.parametrize(
    ("momentum", "updates", "name", "words"),
    [
        (0.1, 81, "foreign", "they belong to other data or other weights"),
        (0.1, 79, "stale", "the weights moved faster than that"),
        (0.01, 100, "stale", "lag behind"),
        (0.99, 5000, "stale", "nearly those of the last batch alone"),
        (None, 5000, "stale", "averages over all 5000 updates"),
        (0.0, 5000, "foreign", "momentum 0 freezes them"),
        (0.1, 0, "foreign", "variance ratio 1.0)"),
    ],
)
def test_statistics_off_the_population_are_named_by_what_they_remember(
    momentum: float | None, updates: int, name: str, words: str
) -> None:
    """Means one deviation off: lagging, too fast, foreign or frozen."""
    (one,) = fired(CHECKS, evidence({"norm": layer(mean=1.0, momentum=momentum, updates=updates)}))
    assert one.name == name
    assert words in one.evidence


def test_other_shapes_and_sizes_are_not_compared() -> None:
    """40 points between B and D, or as many between batches of the same size only."""
    scores = {"A": right(0.9), "B": right(0.9), "C": right(0.5), "D": right(0.5)}
    assert score_checks.overfit(evidence(score=scores)) is not None
    assert score_checks.overfit(evidence(score=scores, incomparable="other shapes")) is None
    assert score_checks.overfit(evidence(score={**scores, "fair": right(0.5)})) is None


def test_a_shift_counts_where_the_target_statistics_help_and_its_share_is_at_most_one() -> None:
    """C rises from 50 to 70 % of 90, or beyond D; with a normalization gap, normalization is the first suspect."""
    moved = Seen({("norm", 0): of(3.0)}, {}, {}, Counter(), Counter())
    scores = {"A": right(0.9), "B": right(0.9), "C": right(0.5), "D": right(0.9)}
    seen = evidence(score=scores, held_out=moved)
    for after, share in ((0.7, 0.5), (1.0, 1.0)):
        (loss,) = generalization_losses(seen, {"target": {"C": right(after)}})
        assert (loss.check, loss.before, loss.after) == ("shift", 0.5, after)
        assert loss.recovered == pytest.approx(share)
    assert generalization_losses(seen, {"target": {"C": right(0.51)}}) == []
    assert generalization_losses(evidence(held_out=moved), {"target": {"C": right(0.9)}}) == []


@pytest.mark.parametrize(("mean", "d", "fires"), [(3.0, 0.5, True), (0.1, 0.9, True), (0.1, 0.5, False)])
def test_a_shift_is_seen_in_the_inputs_or_in_the_score(mean: float, d: float, fires: bool) -> None:
    """Either is enough: inputs far from those of training, or a gain by the samples' own statistics."""
    moved = Seen({("norm", 0): of(mean)}, {}, {}, Counter(), Counter())
    scores = {"A": right(0.9), "B": right(0.9), "C": right(0.5), "D": right(d)}
    assert (score_checks.shift(evidence(score=scores, held_out=moved)) is not None) is fires


def test_the_farthest_group_is_named() -> None:
    """By its shift, not its size."""
    groups = {"camera": {1: Group(90, 0.9, 0.1), 2: Group(10, 0.4, 0.7)}, "subject": {1: Group(100, 0.5, 9.0)}}
    moved = Seen({("norm", 0): of(3.0)}, {}, {}, Counter(), Counter())
    finding = score_checks.shift(evidence(held_out=moved, groups=groups))
    assert finding is not None
    assert finding.evidence == (
        "the inputs of norm are shifted by 3.00 standard deviations on the evaluation samples; farthest camera 2: "
        "0.70, score 40.0 %"
    )


@pytest.mark.parametrize(
    ("d", "count", "fires"), [(0.5, 1000, True), (0.6, 6, False), (0.885, 1000, False)], ids=["far", "few", "near"]
)
def test_overfitting_is_a_difference_beyond_its_noise(d: float, count: int, fires: bool) -> None:
    """Six evaluation samples are noise; two points do not count."""
    scores = {"A": right(0.9, 1000), "B": right(0.9, 1000), "C": right(d, count), "D": right(d, count)}
    assert (score_checks.overfit(evidence(score=scores)) is not None) is fires


@pytest.mark.parametrize(("large", "fires"), [(1.0, True), (0.8, True), (0.9, False)])
def test_small_batches_are_seen_in_either_direction(large: float, fires: bool) -> None:
    """Batches four times as large score better or worse: the score depends on the batch."""
    seen = evidence()
    seen.score["large"] = right(large)
    assert (score_checks.small(seen) is not None) is fires


def test_batches_are_compared_with_shuffled_ones_by_their_variance_around_the_whole() -> None:
    """Own means with variance 2 around 1, a whole with mean 0, shuffled means with variance 0.5: (2 + 1) / 0.5.

    The limit for 5 and 9 batches is exp(2.33 sqrt(2/4 + 2/8)).
    """
    site = ("norm", 0)
    own = Seen({}, {}, {site: of(1.0, 2.0)}, Counter({site: 5}), Counter())
    shuffled = Seen({site: of(0.0, 1.0)}, {}, {site: of(0.0, 0.5)}, Counter({site: 9}), Counter())
    between = score_checks.between_batches(own, shuffled, site)
    assert between == pytest.approx((6.0, math.exp(2.33 * 0.75**0.5)))
    alone = Seen({}, {}, own.batches, Counter({site: 1}), Counter())
    assert score_checks.between_batches(alone, shuffled, site) is None


def test_only_a_gain_of_the_loaders_own_batches_is_leakage() -> None:
    """Not a loss."""
    for given, mixed, fires in ((0.9, 0.5, True), (0.5, 0.9, False)):
        seen = evidence()
        seen.score.update(given_B=right(given), mixed=right(mixed))
        assert (score_checks.leakage(seen) is not None) is fires


def test_a_single_batch_of_one_sample_is_lone() -> None:
    """Unless all are of one sample, or there is no batch norm."""
    assert score_checks.lone(evidence(sizes=Counter({32: 5, 1: 1}))) is not None
    assert score_checks.lone(evidence(sizes=Counter({1: 5}))) is None
    assert score_checks.lone(evidence({}, sizes=Counter({32: 5, 1: 1}))) is None


@pytest.mark.parametrize(("updates", "fires"), [(100, False), (150, False), (151, True)])
def test_more_than_one_update_and_a_half_per_step_is_named(updates: int, fires: bool) -> None:
    """100 steps; with momentum 0.1 the remedy is 1 - 0.9^(1 / 1.51)."""
    finding = layer_checks.updates(evidence({"norm": layer(updates=updates)}, history=History(steps=100)))
    assert (finding is not None) is fires
    if finding:
        assert f"momentum {1 - 0.9 ** (1 / 1.51):.3g} compensates" in (finding.advice or Advice()).next_training


def test_statistics_that_have_not_settled_are_not_blamed_on_their_updates() -> None:
    """Twice per step at momentum 0.001: with half the updates they would be slower still."""
    slow = {"norm": layer(momentum=0.001, updates=200)}
    assert layer_checks.updates(evidence(slow, history=History(steps=100))) is None


def test_the_sources_own_network_is_no_copy() -> None:
    """The source's scale with its statistics is not an average; another scale with them has stale statistics.

    With its own statistics and as many updates it is another network; with less than half as many it lags behind.
    """

    def checked(mean: float, scale: float, updates: int) -> bool:
        source = {
            "norm.running_mean": torch.tensor([0.0]),
            "norm.weight": torch.tensor([1.0]),
            "norm.num_batches_tracked": torch.tensor(100),
        }
        layers = {"norm": layer(mean=mean, scale=scale, updates=updates)}
        return layer_checks.averaging(evidence(layers, history=History(source=source))) is not None

    assert not checked(0.0, 1.0, 100)
    assert checked(0.0, 1.5, 100)
    assert not checked(0.5, 1.5, 100)
    assert checked(0.5, 1.5, 49)
    assert not checked(0.5, 1.5, 50)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"mean": 0.0, "variance": 1.0}, "initial values"),
        ({"mean": math.nan, "variance": 2.0}, "not finite"),
        ({"mean": 0.5, "variance": -1.0}, "negative variance"),
        ({"mean": 0.5, "variance": 0.0}, ""),
    ],
)
def test_unusable_buffers_are_named_with_the_reason(changed: dict[str, float], why: str) -> None:
    """A variance of zero can be used: eps keeps the division finite."""
    finding = layer_checks.buffers(evidence({"norm": layer(**changed)}))
    assert (finding.evidence if finding else "") == (
        f"running statistics are unusable in norm ({why}, 100 updates)" if why else ""
    )


@pytest.mark.parametrize(("updates", "batch", "is_fact"), [(0, 0.5, False), (0, 0.51, True), (9, 0.5, True)])
def test_an_untrained_network_has_its_initial_statistics_by_right(updates: int, batch: float, is_fact: bool) -> None:
    """Unless any score depends on them, or training did update them."""
    scores = {"A": right(0.5), "B": right(batch)}
    finding = layer_checks.buffers(evidence({"norm": layer(updates=updates)}, score=scores))
    assert finding is not None
    assert finding.is_fact is is_fact


def test_ranks_apart_by_a_tenth_of_a_deviation_are_named() -> None:
    """The farthest from the first rank."""

    def states(*means: float) -> list[dict[str, Tensor]]:
        return [{"norm.running_mean": torch.tensor([m]), "norm.running_var": torch.ones(1)} for m in means]

    assert layer_checks.ranks(evidence(history=History(ranks=states(0.0, 0.09)))) is None
    finding = layer_checks.ranks(evidence(history=History(ranks=states(0.0, 0.5, 0.11))))
    assert finding is not None
    assert "the 3 ranks keep different statistics: means of norm up to 0.50" in finding.evidence


def test_stale_names_the_farthest_layer_and_its_memory() -> None:
    """Means 1, 3 and 2 deviations away."""
    layers = {"near": layer(mean=1.0), "far": layer(mean=3.0, momentum=0.01), "last": layer(mean=2.0)}
    finding = layer_checks.stale(evidence(layers))
    assert finding is not None
    assert finding.evidence == (
        "far: running mean 3.00 standard deviations from the population's, variance ratio 1.0; momentum 0.01 "
        "remembers about 100 updates, of 100: the statistics lag behind the weights"
    )
    assert layer_checks.stale(evidence({"norm": layer(mean=0.25, variance=2.0)})) is None


@pytest.mark.parametrize(
    ("on", "running", "fires"), [(4.0, 4.0, True), (4.0, 1.9, False), (4.0, 2.1, True), (1.05, 1.05, False)]
)
def test_dropout_counts_where_the_running_variance_remembers_it(on: float, running: float, fires: bool) -> None:
    """A variance of `on` with dropout and 1 without: nearer to which, on a logarithmic scale, and is it a tenth off?"""
    seen = evidence({"norm": layer(variance=running)}, dropped={("norm", 0): of(0.0, on)})
    assert (layer_checks.dropout(seen) is not None) is fires


def test_padding_is_measured_against_the_real_rows() -> None:
    """Three quarters of the rows are absent, and the means differ by a deviation; without absent rows nothing does."""
    site = ("norm", 0)
    for real, fires in ((of(1.0, count=2.5), True), (of(0.0, count=2.5), False), (of(1.0, count=10.0), False)):
        seen = Seen({site: of(0.0)}, {site: real}, {}, Counter(), Counter())
        finding = layer_checks.padding(evidence(train=seen))
        assert (finding is not None) is fires
        if finding:
            assert finding.evidence.startswith("75 % of the rows at norm")
            assert evidence(train=seen).absent_shares("norm") == [0.75]


@pytest.mark.parametrize(("count", "deviation", "is_fact"), [(2.5, 0.4, True), (2.5, 0.3, False), (6.0, 0.4, False)])
def test_padding_that_changes_from_batch_to_batch_is_a_fact(count: float, deviation: float, is_fact: bool) -> None:
    """Where most rows are absent, and usual batches differ by a factor of two; then it explains what nothing else does.

    A remedy that lowers the score is no advice for now.
    """
    site = ("norm", 0)
    shares = {site: of(-1.2, deviation**2)}
    seen = Seen({site: of(0.0)}, {site: of(1.0, count=count)}, {}, Counter(), Counter(), shares)
    padded = evidence(train=seen)
    every = [Fired("padding", CHECKS["padding"], layer_checks.padding(padded))]  # type: ignore[arg-type]
    tried = {"masked": {"A": right(0.4)}, "per_call": {"A": right(0.5)}, "joint": {"A": right(0.5), "C": right(0.5)}}
    left = suspicions(every, [], padded, tried)
    assert [(one.check, one.now) for one in left] == [("padding", "")] * is_fact
    tried["joint"] = {"A": right(0.9), "C": right(0.9)}
    assert [one.name for one in unnamed(padded, every, tried)] == ["padding" if is_fact else "foreign"]


def test_a_quarter_of_dead_scales_is_named() -> None:
    """Below a thousandth in size, negative ones too."""
    for scales, fires in (([5e-4, 1.0, 1.0, 1.0], True), ([2e-3, 1.0, 1.0, 1.0], False), ([-1.0] * 4, False)):
        bad = Layer(torch.zeros(4), torch.ones(4), torch.tensor(scales), 0.1, 100, 1e-5)
        assert (layer_checks.decay(evidence({"norm": bad})) is not None) is fires


@pytest.mark.parametrize("decayed", [frozenset(), frozenset({"norm"})])
def test_scales_that_began_at_zero_are_not_called_decayed(decayed: frozenset[str]) -> None:
    """A residual branch starts at nothing; with weight decay known, the reason is known too."""
    young = Layer(torch.zeros(4), torch.ones(4), torch.tensor([5e-4, -2e-3, 0.03, 0.0]), 0.1, 100, 1e-5)
    seen = evidence({"norm": young}, history=History(decayed=decayed))
    assert (layer_checks.decay(seen) is not None) is bool(decayed)


def test_every_remedy_of_a_check_exists_and_simpler_ones_come_before() -> None:
    """A remedy is credited with what it adds to the simpler one, which must be tried first."""
    names = list(REMEDIES)
    for check in (CHECKS | REST).values():
        assert check.remedy is None or check.remedy in REMEDIES
        assert set(check.supersedes) <= set(CHECKS)
    for name, remedy in REMEDIES.items():
        assert remedy.simpler is None or names.index(remedy.simpler) < names.index(name)


def test_a_finding_may_name_another_remedy_than_its_check() -> None:
    """Or none."""
    check = Check(lambda seen: None, "", "joint")
    assert Fired("x", check, Finding("")).remedy == "joint"
    assert Fired("x", check, Finding("", remedy="eps")).remedy == "eps"
    assert Fired("x", check, Finding("", remedy=None)).remedy is None


def test_long_lists_of_names_end_with_their_number() -> None:
    """Four names at most."""
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


@pytest.mark.parametrize(("variance", "eps", "fires"), [(0.009, 1e-5, True), (0.011, 1e-5, False), (0.02, 1e-3, False)])
def test_a_variance_that_another_eps_would_drown_is_named(variance: float, eps: float, fires: bool) -> None:
    """Below ten times the eps of Keras, where the layer's own is smaller."""
    finding = layer_checks.precision(evidence({"norm": layer(variance=variance, eps=eps)}))
    assert (finding is not None) is fires
    if finding is not None:
        assert finding.remedy == "larger_eps"
        assert "trained with eps 0.001 (Keras, TensorFlow) and is evaluated with 1e-05" in finding.evidence


@pytest.mark.parametrize(("after", "named"), [(0.83, ["precision"]), (0.81, [])])
def test_a_larger_eps_is_a_cause_only_where_it_recovers_nearly_everything(after: float, named: list[str]) -> None:
    """Nothing in the model says that it was trained with it: 33 of 40 points prove it, 31 do not."""
    one = Fired("precision", CHECKS["precision"], Finding("thin", remedy="larger_eps", is_fact=False))
    tried = {"larger_eps": {"A": right(after), "C": right(after)}}
    assert [cause.check for cause in prove(evidence(), [one], tried)] == named


def test_statistics_of_the_last_batch_alone_are_named_by_their_effect() -> None:
    """Momentum .9, near the population by chance; at .1 the same cure is called foreign."""
    tried = {"joint": {"A": right(0.9), "C": right(0.9)}}
    for momentum, name in ((0.9, "stale"), (0.1, "foreign")):
        seen = evidence({"norm": layer(momentum=momentum)})
        assert [cause.check for cause in prove(seen, unnamed(seen, [], tried), tried)] == [name]


@pytest.mark.parametrize(("a", "c", "named"), [(0.8, 0.8, ["foreign"]), (0.8, 0.52, []), (0.52, 0.8, [])])
def test_without_a_gap_fresh_statistics_must_raise_both(a: float, c: float, named: list[str]) -> None:
    """Batch statistics of few samples score worse than the running ones that are to blame."""
    seen = evidence(score={"A": right(0.5), "B": right(0.3), "C": right(0.5), "D": right(0.3)})
    tried = {"joint": {"A": right(a), "C": right(c)}}
    assert not seen.has_gap
    assert [cause.check for cause in prove(seen, unnamed(seen, [], tried), tried)] == named

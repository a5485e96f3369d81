"""bench: scores in the order of the samples, whatever the order of the batches."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor.bench import Bench, nonfinite_rows, worst_score
from pipeline.normdoctor.collector import Collector, Seen, chosen_rows, population, union
from pipeline.normdoctor.measure import gather
from pipeline.normdoctor.moments import Moments
from pipeline.normdoctor.samples import take
from pipeline.normdoctor.sites import statistics
from tests.pipeline.normdoctor.test_sites import Own

X = torch.arange(12.0)[:, None]
LOADER = [(X[i : i + 4], torch.zeros(4)) for i in range(0, 12, 4)]


def bench(model: nn.Module) -> Bench:
    """The score of a sample is its output."""
    return Bench(model.eval(), take(LOADER), take(LOADER), lambda net, b: net(b[0]), lambda output, b: output[:, 0])


def test_scores_stand_in_the_order_of_the_samples() -> None:
    """Shuffled batches, and their scores by the position of each sample."""
    assert bench(nn.Identity()).on_train(None).score_N.tolist() == X[:, 0].tolist()


def test_one_score_per_batch_is_kept_as_one() -> None:
    """The mean of each batch, three of them."""
    patient = bench(nn.Identity())
    patient.metric = lambda output, batch: output.mean()
    assert len(patient.on_train(None).score_N) == 3


def test_samples_without_a_finite_score_are_counted() -> None:
    """Two of twelve have none."""
    patient = bench(nn.Identity())
    patient.forward = lambda net, batch: torch.where(batch[0] > 9.5, math.nan, batch[0])
    outcome = patient.run(patient.train.batches(), None)
    assert outcome.nonfinite == pytest.approx(2 / 12)
    assert outcome.score_N.isnan().tolist() == [False] * 10 + [True] * 2


def test_a_score_of_a_batch_that_is_not_finite_counts_all_its_samples() -> None:
    """One batch of three holds the sample 0."""
    patient = bench(nn.Identity())
    patient.metric = lambda output, batch: torch.where(output == 0, -math.inf, output).min()
    outcome = patient.run(patient.train.batches(), None)
    assert outcome.nonfinite == pytest.approx(4 / 12)
    assert outcome.score_N.isnan().sum() == 1


def test_the_outputs_of_a_sample_are_found_in_any_structure() -> None:
    """NaN or infinity in a tensor with one entry per sample; -inf masks a logit."""
    logits = torch.tensor([[0.0, -math.inf], [math.nan, 0.0], [0.0, math.inf]])
    assert nonfinite_rows({"logits": logits, "loss": torch.tensor(math.nan)}, 3).tolist() == [False, True, True]
    assert nonfinite_rows((torch.zeros(3), [logits]), 3).tolist() == [False, True, True]
    assert not nonfinite_rows(logits, 2).any()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1.0, math.nan, 0.0], 0.0), ([-3.0, -1.0, math.nan], -3.0 - 2**0.5), ([math.nan], 0.0)],
)
def test_a_sample_without_a_score_is_worse_than_every_other(scores: list[float], expected: float) -> None:
    """0 is the worst accuracy, and the best negative loss: there it is one deviation below the worst."""
    assert worst_score([torch.tensor(scores[:1]), torch.tensor(scores[1:])]) == pytest.approx(expected)


@pytest.mark.parametrize("passes", [1, 2])
def test_calls_are_counted_per_batch_whatever_part_of_the_model_is_called(passes: int) -> None:
    """A part of the model, called in each of three batches: its own forward never runs."""
    patient = bench(nn.Sequential(nn.BatchNorm1d(1)))
    patient.forward = lambda net, batch: [net[0](batch[0]) for _ in range(passes)][-1]
    collector = Collector(patient.model)
    patient.run(patient.train.batches(), collector)
    assert collector.seen.passes == {("0", call): 3 for call in range(passes)}


def test_groups_have_the_scores_of_their_own_samples() -> None:
    """Samples 0 to 5 and 6 to 11, whose scores are themselves over 11."""
    model = nn.Sequential(nn.BatchNorm1d(1))
    groups = {"half": lambda batch: (batch[0][:, 0] > 5.5).long()}
    forward, metric = lambda net, b: (net(b[0]), b[0])[1], lambda output, b: output[:, 0] / 11
    _, evidence = gather(model.eval(), LOADER, LOADER, forward, metric, None, groups)
    first, second = evidence.groups["half"][0], evidence.groups["half"][1]
    assert (first.samples, second.samples) == (6, 6)
    assert (first.score, second.score) == pytest.approx((2.5 / 11, 8.5 / 11))
    # Means 2.5 and 8.5 of a population around 5.5 with variance 143 / 12, each with variance 35 / 12.
    assert (first.shift, second.shift) == pytest.approx((3 / ((143 + 35) / 24) ** 0.5,) * 2)


def test_groups_without_a_batch_norm_shift_nothing() -> None:
    """Empty."""
    groups = {"half": lambda batch: (batch[0][:, 0] > 5.5).long()}
    _, evidence = gather(
        nn.Linear(1, 2), LOADER, LOADER, lambda net, b: net(b[0]), default_metric_of_ones, None, groups
    )
    assert evidence.groups == {}
    assert torch.equal(evidence.score["A"], evidence.score["B"])


def default_metric_of_ones(output: Tensor, batch: object) -> Tensor:
    """Every sample is right."""
    return torch.ones(len(output))


# collector


def collected(batches: list[Tensor], **how: object) -> tuple[Seen, list[Tensor]]:
    """Statistics that a collector keeps of batches through one norm, and the outputs."""
    model = nn.Sequential(nn.BatchNorm1d(1, eps=0.0)).eval()
    collector = Collector(model, **how)  # type: ignore[arg-type]
    outputs = []

    def pairs() -> Iterator[tuple[None, Tensor]]:
        yield from ((None, x) for x in batches)

    with torch.no_grad(), statistics(model, collector):
        for _, x in collector.of_batches(pairs()):
            outputs.append(model(x))  # noqa: PERF401
    return collector.seen, outputs


def column(*values: float) -> Tensor:
    """One channel."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_a_collector_keeps_population_batch_means_and_counts() -> None:
    """Batches (0, 2) and (4, 6, 8): means 1 and 6, weighted 2 to 3; normalized by each batch's own moments."""
    seen, outputs = collected([column(0, 2), column(4, 6, 8)])
    site = ("0", 0)
    assert (seen.population[site].mean_C.item(), seen.population[site].variance_C.item()) == pytest.approx((4.0, 8.0))
    assert (seen.batches[site].mean_C.item(), seen.batches[site].variance_C.item()) == pytest.approx((4.0, 6.0))
    assert (seen.passes[site], seen.nonfinite[site], seen.real) == (2, 0, {})
    assert torch.allclose(outputs[0], column(-1, 1))
    assert torch.allclose(outputs[1], column(-(1.5**0.5), 0, 1.5**0.5))


def test_a_batch_with_a_non_finite_number_is_counted_apart() -> None:
    """It does not reach the means of batches."""
    seen, _ = collected([column(0, 2), column(math.inf, 0)])
    assert seen.nonfinite == {("0", 0): 1}
    assert seen.batches[("0", 0)].mean_C.item() == 1.0


def test_real_rows_are_counted_apart_and_normalize_where_asked() -> None:
    """Rows above 1 are real: (4, 6) of (0, 0, 4, 6); a lone real row cannot normalize."""
    how = {"rows": lambda batch, x, slot: batch[:, 0] > 1}
    site = ("0", 0)
    seen, (by_all,) = collected([column(0, 0, 4, 6)], **how)
    assert (seen.real[site].mean_C.item(), seen.real[site].variance_C.item(), seen.real[site].count) == (5.0, 1.0, 2.0)
    assert by_all[2].item() == pytest.approx(1.5 / (27 / 4) ** 0.5)
    _, (by_real,) = collected([column(0, 0, 4, 6)], by_real_rows=True, **how)
    assert by_real.flatten().tolist() == [-5.0, -5.0, -1.0, 1.0]
    _, (lone,) = collected([column(0, 0, 0, 4)], by_real_rows=True, **how)
    assert lone[3].item() == pytest.approx(3 / 3**0.5)


def test_a_layer_with_a_formula_of_its_own_normalizes_the_batch_itself() -> None:
    """Its slot, not the number of the call, is that of `rows`; torch's own layers have none."""
    slots = []
    for layer in (Own(1), nn.BatchNorm1d(1)):
        model = nn.Sequential(layer).eval()
        collector = Collector(model, lambda batch, x, slot: slots.append(slot))
        with torch.no_grad(), statistics(model, collector):
            assert (model(column(0, 1, 5)).unique().tolist() == [3.0]) is isinstance(layer, Own)
    assert slots == [1, 0]


def test_places_in_rows_are_chosen_like_rows() -> None:
    """x (2, 3, 4) by (2, 4) places: R places of 3 channels."""
    x = torch.arange(24.0).reshape(2, 3, 4)
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    chosen[1, 2] = True
    assert chosen_rows(x, chosen).tolist() == [[14.0, 18.0, 22.0]]
    assert torch.equal(chosen_rows(x, torch.tensor([False, True])), x[1:])


def test_population_statistics_stream_in_float64() -> None:
    """Tenths in float32, added up exactly; layers of the union are those of all calls."""
    model = nn.Sequential(nn.BatchNorm1d(1)).eval()
    batches = [column(0.1, 0.2), column(0.4, 0.7, 0.9)]
    table = population(lambda net, x: net(x), model, batches)
    whole = torch.cat(batches).double()
    assert table["0", 0].mean_C.item() == pytest.approx(whole.mean().item(), abs=1e-16)
    assert table["0", 0].variance_C.item() == pytest.approx(whole.var(correction=0).item(), abs=1e-16)
    two = {("a", 1): Moments(column(4)[0], column(0)[0], 3), ("a", 0): Moments(column(0)[0], column(0)[0], 1)}
    assert union(two)["a"].mean_C.item() == 3.0

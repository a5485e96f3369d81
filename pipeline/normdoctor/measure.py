"""Measure the evidence: statistics at the call sites, and scores by running and by batch statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .bench import Batches, Bench, Forward, Metric, with_eval
from .collector import Collector, Rows, Seen, SiteMoments, add
from .evidence import Evidence, Group, Groups, History, Scores
from .layers import Layer
from .moments import Moments, mean_shift
from .samples import take
from .sites import Site, batch_norms, restore_buffers, same_bits, statistics
from .sources import batch_statistics, running

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Below this batch size, scores are also measured in batches LARGER times as large.
SMALL_BATCH, LARGER = 16, 4
# Evaluation samples that the input shift of a group is measured on.
GROUP_SAMPLES = 256
# Samples on which dropout is seen to reach a batch norm, and samples it is then measured on.
DROPOUT_TRIAL, DROPOUT_SAMPLES = 32, 1024


def gather(
    model: nn.Module,
    train_loader: Iterable[Any],
    eval_loader: Iterable[Any] | None,
    forward: Forward,
    metric: Metric,
    rows: Rows | None,
    groups: Groups | None = None,
    history: History | None = None,
) -> tuple[Bench, Evidence]:
    """Put a copy of the model on the bench and collect the evidence. The model itself is not touched.

    The arguments are those of `diagnose`.
    """
    inner, averaged = unwrapped(model)
    reject_unreadable(inner)
    train = take(train_loader)
    held_out = None if eval_loader is None else take(eval_loader)
    bench = Bench(copied(inner), train, held_out, forward, metric)
    training = _in_training(bench.model)
    seen = _as_evaluated(bench, bool(training))
    by_batch = _by_batch_statistics(bench, rows) if seen.layers else _without_layers(seen.score)
    return bench, Evidence(
        training_modules=training,
        stuck_modules=seen.stuck,
        changed_buffers=seen.changed,
        averaged=averaged,
        layers=seen.layers,
        score=seen.score | by_batch.score,
        nonfinite_outputs=seen.nonfinite / len(train),
        sizes=train.sizes,
        history=history or History(),
        train=by_batch.train,
        given=by_batch.given,
        masked=by_batch.masked,
        dropped=by_batch.dropped,
        held_out=by_batch.held_out,
        groups=_by_group(bench, by_batch.train, seen.score.get("C"), groups or {}),
    )


class _AsEvaluated(NamedTuple):
    """The model in eval mode, and in the mode that it was passed in."""

    layers: dict[str, Layer]
    score: Scores
    stuck: list[str]
    changed: list[str]
    nonfinite: int


def _as_evaluated(bench: Bench, training: bool) -> _AsEvaluated:
    """Measure A and C by running statistics, and as found where that differs."""
    found = bench.both(None) if training else {}
    bench.model.eval()
    stuck = _in_training(bench.model)
    layers = {name: Layer.of(layer) for name, layer in batch_norms(bench.model).items()}
    changed = _changed_buffers(bench)
    on_train, nonfinite = bench.run(bench.train.batches(), None)
    plain = with_eval({"A": on_train}, bench.on_eval(None))
    if (stuck or changed) and layers:
        found = found or plain
        plain = bench.both(running(layers))
    if found:
        plain = with_found(plain, found)
    return _AsEvaluated(layers, plain, stuck, changed, nonfinite)


def with_found(plain: Scores, found: Scores) -> Scores:
    """Add the scores of the model as found under their names."""
    scores: Scores = {**plain, "found_A": found["A"]}
    return {**scores, "found_C": found["C"]} if "C" in found else scores


class _ByBatch(NamedTuple):
    """Passes by batch statistics: scores, and statistics of the call sites."""

    score: Scores
    train: Seen
    given: Seen
    masked: SiteMoments
    dropped: SiteMoments
    held_out: Seen | None


def _without_layers(score: Scores) -> _ByBatch:
    same: Scores = {"B": score["A"]}
    if "C" in score:
        same["D"] = score["C"]
    return _ByBatch(same, Seen(), Seen(), {}, {}, None)


def _by_batch_statistics(bench: Bench, rows: Rows | None) -> _ByBatch:
    """Measure B, D and the control passes, and what each call site sees in them."""
    train = bench.train
    score: Scores = {}
    collector = Collector(bench.model, rows)
    score["B"] = bench.on_train(collector)
    masked = _by_real_rows(bench, rows, collector.seen)
    given = Collector(bench.model)
    score["given"] = bench.run(train.as_given(), given).score_N
    if train.apart:
        score["mixed"] = bench.run(train.mixed(), batch_statistics).score_N
        if train.size < SMALL_BATCH:
            score["large"] = bench.run(train.batches(size=LARGER * train.size), batch_statistics).score_N
    dropped = _with_dropout(bench)
    held_out = None
    if bench.held_out is not None:
        watcher = Collector(bench.model, rows)
        score["D"] = bench.run(bench.held_out.batches(size=train.size), watcher).score_N
        held_out = watcher.seen
    return _ByBatch(score, collector.seen, given.seen, masked, dropped, held_out)


def _by_real_rows(bench: Bench, rows: Rows | None, seen: Seen) -> SiteMoments:
    """Statistics of the real rows, where every layer above is normalized by real rows too."""
    if not any(seen.real[site].count < seen.population[site].count for site in seen.real):
        return {}
    collector = Collector(bench.model, rows, by_real_rows=True)
    bench.on_train(collector)
    return collector.seen.real


def unwrapped(model: nn.Module) -> tuple[nn.Module, int | None]:
    """Return the module inside DDP, DataParallel, torch.compile and AveragedModel, and the networks it averages.

    The number is None unless averaged weights go with the buffers of the last network (use_buffers off).
    """
    averaged = None
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(model, AveragedModel):
            averaged, model = None if model.use_buffers else int(model.n_averaged), model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model, averaged


def reject_unreadable(model: nn.Module) -> None:
    """Reject a model whose layers cannot be seen or do not exist yet.

    Raises:
        ValueError: TorchScript, or lazy layers before their first batch.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a TorchScript model hides its layers: pass the Python module that it was made from")
    lazy = [n for n, m in model.named_modules() if getattr(m, "has_uninitialized_params", bool)()]
    if lazy:
        raise ValueError(
            f"lazy layers have seen no batch yet ({', '.join(lazy[:4])}): run the model on one batch first"
        )


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    Raises:
        ValueError: The model holds tensors of a forward pass, which cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied, and a diagnosis works on a copy ({error}): remove what it keeps of a "
            "forward pass or of weight_norm, or load its state into a fresh network and pass that"
        ) from None


def _in_training(model: nn.Module) -> list[str]:
    return [name or "the model" for name, module in model.named_modules() if module.training]


def _changed_buffers(bench: Bench) -> list[str]:
    """Names of the buffers that one batch changes; they are restored."""
    before = {name: buffer.clone() for name, buffer in bench.model.named_buffers()}
    first = next(iter(bench.train.batches()))[1]
    with torch.no_grad():
        bench.forward(bench.model, first)
    return restore_buffers(bench.model, before)


def _with_dropout(bench: Bench) -> SiteMoments:
    """Statistics of the call sites with dropout on, as in training; empty where it reaches none of them."""
    layers = [m for m in bench.model.modules() if isinstance(m, DROPOUTS) and m.p > 0]
    if not layers:
        return {}

    def population(samples: int) -> SiteMoments:
        collector = Collector(bench.model)
        bench.run(bench.train.batches(limit=samples), collector)
        return collector.seen.population

    with torch.random.fork_rng():
        torch.manual_seed(0)
        with _switched_on(layers):
            on = population(DROPOUT_TRIAL)
        off = population(DROPOUT_TRIAL)
        if all(same_bits(on[site].variance_C, off[site].variance_C) for site in on):
            return {}
        with _switched_on(layers):
            return population(DROPOUT_SAMPLES)


@contextmanager
def _switched_on(layers: Iterable[nn.Module]) -> Iterator[None]:
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _by_group(bench: Bench, train: Seen, by_running_N: Tensor | None, groups: Groups) -> dict[str, dict[int, Group]]:
    """Size, score C and input shift of every group of each division of the evaluation samples.

    Empty where no batch norm is reached, or the scores are not those of single samples.
    """
    samples = bench.held_out
    if not train.population or samples is None or not samples.apart:
        return {}
    if by_running_N is None or len(by_running_N) != len(samples):
        return {}
    result: dict[str, dict[int, Group]] = {}
    for division, number in groups.items():
        group_N = torch.empty(len(samples), dtype=torch.long)
        for positions, batch in samples.batches():
            group_N[positions] = number(batch).cpu().long()
        result[division] = {}
        for group in group_N.unique().tolist():
            members = (group_N == group).nonzero().squeeze(1)
            site, seen = first_input(bench, samples.composed(members[:GROUP_SAMPLES].split(bench.train.size)))
            score = by_running_N[members].double().mean().item()
            result[division][group] = Group(len(members), score, mean_shift(train.population[site], seen))
    return result


class _ReachedError(Exception):
    """The first batch norm was reached: the rest of the forward pass is not needed."""


def first_input(bench: Bench, batches: Batches) -> tuple[Site, Moments]:
    """Return the first call site that a forward pass reaches, and what it sees. The pass ends there."""
    found: SiteMoments = {}

    def look(site: Site, x: Tensor) -> None:
        add(found, site, Moments.of(x))
        raise _ReachedError

    with torch.no_grad(), statistics(bench.model, look):
        for _, batch in batches:
            with suppress(_ReachedError):
                bench.forward(bench.model, batch)
    return next(iter(found.items()))

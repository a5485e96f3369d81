"""Measure the evidence: statistics at the call sites, and scores by running and by batch statistics."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.optim.swa_utils import AveragedModel

from .batches import apart, shape_of
from .bench import Batches, Bench, PassEnded, PassResult, worst_score
from .calling import Forward, Metric, first_line, quietly, usage
from .collector import Collector, Rows, Seen, SiteMoments, add
from .composition import shares_of_labels
from .effects import note_layers
from .evidence import Evidence, Group, Groups, History, Pass
from .inputs import difference
from .layers import Layer
from .moments import Moments, mean_shift
from .randomness import random_in_eval, with_dropout
from .reproduce import ONE_VALUE, rejects_one, reproduced
from .samples import LIMIT, Samples, take
from .scoring import read_metric
from .settling import settled_buffers
from .sites import Site, Statistics, batch_norms, restore_buffers, statistics
from .sources import batch_statistics, running

# Below this batch size, scores are also measured in batches LARGER times as large.
SMALL_BATCH, LARGER = 16, 4
# Evaluation samples that the input shift of a group is measured on.
GROUP_SAMPLES = 256
# Multiple of a number type's smallest difference from 1 that is rounding.
ROUNDING = 16
# Difference between two batch sizes that does not matter.
SAME_SIZE = 0.1

Passes = dict[Pass, PassResult]


def gather(
    model: nn.Module,
    train_loader: Iterable[Any],
    eval_loader: Iterable[Any] | None,
    forward: Forward | None = None,
    metric: Metric | str | None = None,
    rows: Rows | None = None,
    groups: Groups | None = None,
    history: History | None = None,
    higher_is_better: bool | None = None,
    samples: int = LIMIT,
    batches: int | None = None,
) -> tuple[Bench, Evidence]:
    """Put a copy of the model on the bench and collect the evidence. The model itself is not touched.

    The arguments are those of `diagnose`.
    """
    inner, averaged = unwrapped(model)
    reject_unreadable(inner)
    train = take(train_loader, samples, most=batches)
    held_out = None if eval_loader is None else take(eval_loader, samples, most=batches, name="evaluation batches")
    twin = copied(inner)
    how = usage(twin, train, forward, metric)
    bench = Bench(twin, train, held_out, how.forward, how.metric)
    training = _in_training(bench.model)
    quietly(twin, lambda: note_layers(twin, lambda: bench.output(next(iter(train.batches()))[1])))
    scoring = read_metric(bench, higher_is_better, how.is_ready_made)
    bench.sign = scoring.sign
    seen = _as_evaluated(bench, bool(training))
    by_batch = _by_batch_statistics(bench, rows) if seen.layers else _without_layers(seen.passes)
    passes = seen.passes | by_batch.passes
    if seen.layers:
        passes |= reproduced(bench, seen.layers, by_batch.train.population, by_batch.dropped)
    worst = worst_score(one.score_N for one in passes.values())
    score = {name: one.score_N.nan_to_num(worst) for name, one in passes.items()}
    return bench, Evidence(
        training_modules=training,
        stuck_modules=seen.stuck,
        changed_buffers=seen.changed,
        averaged=averaged,
        layers=seen.layers,
        score=score,
        batch={name: passes[name].batch_N for name in (*by_batch.passes, "found_A", "found_C") if name in passes},
        sign=scoring.sign,
        metric_note=scoring.note,
        metric_is_doubtful=scoring.is_doubtful,
        worst=worst,
        samples_per_score=passes["A"].samples_per_score,
        failure=seen.failure,
        settled=settled_buffers(bench),
        rejects_one=rejects_one(bench),
        incomparable=_incomparable(train, held_out),
        nonfinite_outputs=passes["A"].nonfinite,
        sizes=train.sizes,
        assumed=[*how.assumed, *_bounded(train, held_out, samples)],
        shares=shares_of_labels(train),
        inputs=difference(train, held_out),
        random_in_eval="" if seen.stuck else random_in_eval(bench),
        history=history or History(),
        train=by_batch.train,
        given=by_batch.given,
        masked=by_batch.masked,
        dropped=by_batch.dropped,
        held_out=by_batch.held_out,
        groups=_by_group(bench, by_batch.train, score.get("C"), groups or {}),
    )


def _bounded(train: Samples, held_out: Samples | None, limit: int) -> list[str]:
    """Say where less was read or kept of a loader than it gives, and where batches stay whole."""
    said = []
    for name, samples in (("training", train), ("evaluation", held_out)):
        if samples is None:
            continue
        if samples.unread:
            said.append(f"reading of the {name} loader ends after {samples.seen:,} samples (batches= sets the limit)")
        if samples.apart and len(samples) < min(limit, samples.seen):
            said.append(f"{len(samples):,} {name} samples are kept, as many as fit into memory")
        if not samples.apart:
            said.append(f"{name} batches are not divided into samples")
    return said


class _AsEvaluated(NamedTuple):
    """The model in eval mode, and in the mode that it was passed in."""

    layers: dict[str, Layer]
    passes: Passes
    stuck: list[str]
    changed: list[str]
    failure: str


def _as_evaluated(bench: Bench, training: bool) -> _AsEvaluated:
    """Measure A and C by running statistics, in the loaders' own batches too, and as found where that differs."""
    found, failure = _as_found(bench) if training else ({}, "")
    bench.model.eval()
    stuck = _in_training(bench.model)
    layers = {name: Layer.of(layer) for name, layer in batch_norms(bench.model).items()}
    changed = _changed_buffers(bench)
    source = None
    if (stuck or changed) and layers:
        found, failure = (found, failure) if training else _as_found(bench)
        source = running(layers)
    own = _in_own_batches(bench, source, "given_A", "given_C")
    return _AsEvaluated(layers, {**bench.both(source), **own, **found}, stuck, changed, failure)


def _as_found(bench: Bench) -> tuple[Passes, str]:
    """Score the model as it is: the evaluation samples in the loader's own batches, on which its output depends.

    Returns:
        The passes, and the error where one fails in training mode: on a batch of one value per channel, or because
        the model then asks for labels and returns losses.
    """
    passes: Passes = {}
    try:
        passes["found_A"] = bench.on_train(None)
        if bench.held_out is not None:
            passes["found_C"] = bench.run(bench.held_out.as_given(), None)
    except ValueError as error:
        if not bench.model.training:
            raise
        return passes, f"{ONE_VALUE} when training" if ONE_VALUE in str(error) else first_line(error)
    return passes, ""


def _in_own_batches(bench: Bench, source: Statistics | None, on_train: Pass, on_eval: Pass) -> Passes:
    """Score the samples that are kept in the loaders' own batches."""
    passes: Passes = {on_train: bench.run(bench.train.as_given(), source)}
    if bench.held_out is not None:
        passes[on_eval] = bench.run(bench.held_out.as_given(), source)
    return passes


class _ByBatch(NamedTuple):
    """Passes by batch statistics: scores, and statistics of the call sites."""

    passes: Passes
    train: Seen
    given: Seen
    masked: SiteMoments
    dropped: SiteMoments
    held_out: Seen | None


def _without_layers(passes: Passes) -> _ByBatch:
    twins: dict[Pass, Pass] = {"B": "A", "D": "C", "given_B": "given_A", "given_D": "given_C"}
    same = {batch: passes[running] for batch, running in twins.items() if running in passes}
    return _ByBatch(same, Seen(), Seen(), {}, {}, None)


def _by_batch_statistics(bench: Bench, rows: Rows | None) -> _ByBatch:
    """Measure B, D and the control passes, and what each call site sees in them."""
    train = bench.train
    collector = Collector(bench.model, rows)
    passes: Passes = {"B": bench.on_train(collector)}
    masked = _by_real_rows(bench, rows, collector.seen)
    given = Collector(bench.model)
    passes["given_B"] = bench.run(train.as_given(), given)
    if train.apart:
        passes["mixed"] = bench.run(train.mixed(), batch_statistics)
        if train.size < SMALL_BATCH:
            passes["large"] = bench.run(train.batches(size=LARGER * train.size), batch_statistics)
    dropped = with_dropout(bench)
    held_out = None
    if bench.held_out is not None:
        watcher = Collector(bench.model, rows)
        passes["D"] = bench.run(bench.held_out.batches(size=train.size), watcher)
        passes["given_D"] = bench.run(bench.held_out.as_given(), batch_statistics)
        held_out = watcher.seen
        size, its = (_mean_size(passes[name]) for name in ("B", "D"))
        if train.apart and abs(its / size - 1) > SAME_SIZE:
            passes["fair"] = bench.run(train.batches(size=max(1, round(its))), batch_statistics)
    return _ByBatch(passes, collector.seen, given.seen, masked, dropped, held_out)


def _mean_size(one: PassResult) -> float:
    return len(one.batch_N) / max(1, len(one.batch_N.unique()))


def _incomparable(train: Samples, held_out: Samples | None) -> str:
    """Return why training and evaluation samples cannot be compared in batches of one size; empty where they can."""
    if held_out is None:
        return ""
    if train.apart and held_out.apart:
        one, other = (_input_shape(samples) for samples in (train, held_out))
        return "" if one == other else f"evaluation samples have another shape {other} than training samples {one}"
    if held_out.apart or train.apart or train.size == held_out.size:
        return ""
    return f"evaluation batches of {held_out.size} and training batches of {train.size} cannot be divided"


def _input_shape(samples: Samples) -> tuple[int, ...]:
    """Return the shape of the first tensor or array of a sample."""
    shapes = [shape_of(leaf) for leaf in apart(samples.like)[0]]
    return next((shape for shape in shapes if isinstance(shape, tuple) and shape), ())


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
        twin = copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied, and a diagnosis works on a copy ({error}): remove what it keeps of a "
            "forward pass or of weight_norm, or load its state into a fresh network and pass that"
        ) from None
    for layer in twin.modules():
        if type(layer) is SyncBatchNorm:
            layer.__class__ = _OneProcess  # type: ignore[assignment]
    return twin


def as_given(twin: nn.Module) -> nn.Module:
    """Give a copy's layers the types that they have in the model it was made from."""
    for layer in twin.modules():
        if type(layer) is _OneProcess:
            layer.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return twin


class _OneProcess(_BatchNorm):
    """SyncBatchNorm in one process: torch's own rejects CPU tensors in training mode."""

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any shape, as SyncBatchNorm does."""


def _in_training(model: nn.Module) -> list[str]:
    return [name or "the model" for name, module in model.named_modules() if module.training]


def _changed_buffers(bench: Bench) -> list[str]:
    """Names of the buffers that one batch changes, beyond rounding; they are restored.

    Instance norms of torch 2.4 write their running statistics back in eval mode, as a mean over the batch's samples.
    """
    before = {name: buffer.clone() for name, buffer in bench.model.named_buffers()}
    first = next(iter(bench.train.batches()))[1]
    with torch.no_grad():
        bench.output(first)
    after = {name: buffer.clone() for name, buffer in bench.model.named_buffers()}
    return [name for name in restore_buffers(bench.model, before) if not _is_rounding(before[name], after[name])]


def _is_rounding(before: Tensor, after: Tensor) -> bool:
    """Return whether a buffer differs by rounding errors alone."""
    if not before.is_floating_point() or before.shape != after.shape or not before.numel():
        return False
    apart = (after.double() - before.double()).abs().max()
    return bool(apart <= ROUNDING * torch.finfo(before.dtype).eps * before.double().abs().max())


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


def first_input(bench: Bench, batches: Batches) -> tuple[Site, Moments]:
    """Return the first call site that a forward pass reaches, and what it sees. The pass ends there."""
    found: SiteMoments = {}
    calls: Counter[str] = Counter()

    def look(site: Site, x: Tensor) -> None:
        add(found, site, Moments.of(x))
        raise PassEnded

    with torch.no_grad(), statistics(bench.model, look, calls):
        for _, batch in batches:
            calls.clear()
            with suppress(PassEnded):
                bench.output(batch)
    return next(iter(found.items()))

"""Accuracy in a named statistics mode: running, batch, or a table of recalibrated statistics.

Four accuracies tell where a gap comes from (dropout is off in all of them):
A train clips, running statistics; B the same clips, statistics of their own shuffled batch;
C evaluation clips, running; D evaluation clips, batch statistics.
Normalization gap = B - A, generalization gap = B - D.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.data.clips import Batch, Clips, ahead, epoch_batches, evenly
from pipeline.norms import batch_norms, by_moments_alone, moments, output_by

Site = tuple[str, int]  # a layer's name and the number of its call within one forward pass
# A layer's input -> mean (C,), biased variance (C,); None: those of the batch, used as the layer does in training.
Statistics = Callable[[Site, Tensor], tuple[Tensor, Tensor] | None]

# Clips that A and B are measured on at most: enough for a standard error of one point.
TRAIN_PROBE = 2000


@contextmanager
def statistics(model: nn.Module, source: Statistics | None) -> Iterator[None]:
    """Within the context every batch norm of `model` normalises by `source`'s statistics; None: by its running ones.

    Buffers, modes and parameters stay as they are. Calls are counted anew in each forward pass of `model`. What
    torch.compile made of the model or of parts of it rests meanwhile: it would not notice that layers are looked at.
    """
    if source is None:
        yield
        return
    calls: Counter[str] = Counter()

    def replace(name: str, layer: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        site = (name, calls[name])
        calls[name] += 1
        return output_by(layer, x, source(site, x))

    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    handles += [layer.register_forward_hook(partial(replace, name)) for name, layer in batch_norms(model).items()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


def batch_statistics(site: Site, x: Tensor) -> None:
    """The statistics of the batch itself, as in training (of its parts in ghost_bn, corrected in batch_renorm)."""


class Prediction(NamedTuple):
    """What a model said of clips, in the order they were asked for."""

    logits_NK: Tensor
    label_N: Tensor

    @property
    def correct_N(self) -> Tensor:
        """Whether the first choice was right."""
        return self.logits_NK.argmax(1) == self.label_N

    @property
    def top1(self) -> float:
        """Share of clips whose first choice is right."""
        return self.correct_N.double().mean().item()


Window = tuple[float, float]  # first and last place of a part of a clip, as shares of its length


def predict(
    model: nn.Module,
    clips: Clips,
    index_N: Tensor,
    frames: int,
    size: int,
    source: Statistics | None = None,
    window: Window | None = None,
) -> Prediction:
    """Logits for clips `index_N`, or for one `window` of each, in shuffled batches shared out over the ranks.

    Batch statistics are those of a whole batch of `size`, whatever the number of ranks. The model must be in eval mode.
    """
    return predict_each(model, clips, index_N, frames, size, [source], window)[0]


def predict_each(
    model: nn.Module,
    clips: Clips,
    index_N: Tensor,
    frames: int,
    size: int,
    sources: Sequence[Statistics | None],
    window: Window | None = None,
) -> list[Prediction]:
    """`predict` by each of several statistics; every batch is put together once."""
    positions = epoch_batches(torch.arange(len(index_N)), clips.label_N, size, seed=0, epoch=0, order="once")
    logits = [torch.zeros(len(index_N), clips.classes, device=clips.device) for _ in sources]
    mine = positions[distributed.rank() :: distributed.world_size()]

    def make(position: Tensor) -> Batch:
        return clips.batch(index_N[position], frames, torch.tensor([window] * len(position)) if window else None)

    with torch.no_grad():
        for position, batch in zip(mine, ahead(make, mine, clips.workers), strict=True):
            for logits_NK, source in zip(logits, sources, strict=True):
                with statistics(model, source):
                    logits_NK[position.to(clips.device)] = model(batch.x_NCTVM, batch.present_NMT).float()
    label_N = clips.label_N[index_N.to(clips.device)]
    return [Prediction(distributed.total(logits_NK), label_N) for logits_NK in logits]


def crops(shortest: float, count: int) -> list[Window]:
    """`count` windows of a length half-way between a training crop's shortest and the whole, evenly from end to end."""
    length = (1 + shortest) / 2
    return [(first, first + length) for first in np.linspace(0, 1 - length, count).tolist()]


def predict_crops(
    model: nn.Module, clips: Clips, index_N: Tensor, frames: int, size: int, windows: Sequence[Window]
) -> Prediction:
    """The mean over several windows of each clip's class probabilities, as logarithms (pyskl's "10 clips")."""
    each = [predict(model, clips, index_N, frames, size, window=window) for window in windows]
    mean_NK = torch.stack([one.logits_NK.softmax(1) for one in each]).mean(0)
    return Prediction(mean_NK.log(), each[0].label_N)


def probe(index_N: Tensor) -> Tensor:
    """At most TRAIN_PROBE training clips, spread evenly and always the same."""
    return evenly(index_N, TRAIN_PROBE)


class Evaluation(NamedTuple):
    """What an evaluation of a network finds."""

    accuracies: dict[str, float]
    """A, B and, when there are held-out clips, C and D, as fractions."""
    norms: dict[str, dict[str, float]]
    """Layer with running statistics -> mean_shift: how far the running mean is from that of the training clips, in
    standard deviations (`shift`), of the layer's worst call."""


def evaluation(
    model: nn.Module, clips: Clips, train_N: Tensor, held_out_N: Tensor, frames: int, size: int
) -> Evaluation:
    """Accuracies A to D, and how far each norm's running mean is from the training clips: both of the same passes."""
    model.eval()
    table: dict[Site, Moments] = {}

    def watched(site: Site, x: Tensor) -> None:
        mean, variance, count = moments(x)
        count_in(table, site, Moments(mean, variance, float(count)))

    def measure(names: str, index_N: Tensor, batchwise: Statistics) -> dict[str, float]:
        sources = [None, batchwise] if batch_norms(model) else [None]
        seen = [one.top1 for one in predict_each(model, clips, index_N, frames, size, sources)]
        return {names[0]: seen[0], names[1]: seen[-1]}

    four = measure("AB", train_N, watched)
    if len(held_out_N):
        four |= measure("CD", held_out_N, batch_statistics)
    return Evaluation(four, _mean_shifts(model, table))


def _mean_shifts(model: nn.Module, table: dict[Site, Moments]) -> dict[str, dict[str, float]]:
    """`Evaluation.norms`, from what this rank saw of the training clips."""
    result: dict[str, dict[str, float]] = {}
    layers: dict[str, Any] = batch_norms(model)
    for name, layer in layers.items():
        if layer.running_mean is None:
            continue
        running = Moments(layer.running_mean, layer.running_var, 1.0)
        _, calls = _over_ranks(
            None, 1 + max((call for site, call in table if site == name), default=-1), layer.running_mean
        )
        each = [_over_ranks(table.get((name, call)), 0, layer.running_mean)[0] for call in range(calls)]
        result[name] = {"mean_shift": max((shift(one, running) for one in each if one.count), default=0.0)}
    return result


def gaps(accuracies: dict[str, float]) -> dict[str, float]:
    """Normalization gap B - A and, when D is known, generalization gap B - D."""
    result = {"normalization": accuracies["B"] - accuracies["A"]}
    if "D" in accuracies:
        result["generalization"] = accuracies["B"] - accuracies["D"]
    return result


@dataclass(frozen=True)
class Moments:
    """Population statistics of one call site."""

    mean_C: Tensor
    variance_C: Tensor
    count: float

    def merge(self, other: Moments) -> Moments:
        """Moments of the union (law of total variance; Chan et al. 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        a, b = self.count / count, other.count / count
        mean = a * self.mean_C + b * other.mean_C
        between = a * b * (self.mean_C - other.mean_C).square()
        return Moments(mean, a * self.variance_C + b * other.variance_C + between, count)


def shift(a: Moments, b: Moments) -> float:
    """Median over channels of |mean a - mean b| in pooled standard deviations."""
    spread = ((a.variance_C + b.variance_C.to(a.variance_C)) / 2).clamp(min=1e-12).sqrt()
    return ((a.mean_C - b.mean_C.to(a.mean_C)).abs() / spread).median().item()


def population(
    forward: Callable[[nn.Module, Any], Any], model: nn.Module, batches: Iterable[Any]
) -> dict[Site, Moments]:
    """Population statistics at each call site, every layer above normalised by its batch's statistics.

    Streaming, in float64, dropout off.
    """
    table: dict[Site, Moments] = {}
    plain = {name for name, layer in batch_norms(model).items() if by_moments_alone(layer)}

    def collect(site: Site, x: Tensor) -> tuple[Tensor, Tensor] | None:
        mean, variance, count = moments(x.double())
        count_in(table, site, Moments(mean, variance, float(count)))
        # By these very moments: torch's kernel adds up in float32, and where an empty body leaves a channel without
        # spread its error is divided by sqrt(eps), and the layers above would be counted on something else.
        return (mean, variance) if site[0] in plain and count > 1 else None

    with torch.no_grad(), statistics(model, collect):
        for batch in batches:
            forward(model, batch)
    return table


def count_in(table: dict[Site, Moments], site: Site, new: Moments) -> None:
    """Add what a call site has seen to its entry."""
    table[site] = table[site].merge(new) if site in table else new


def per_call(table: dict[Site, Moments]) -> Statistics:
    """Each call site by its own population statistics. A site without rows falls back to its layer's union."""
    whole = union(table)

    def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
        own = table.get(site)
        chosen = own if own is not None and own.count else whole[site[0]]
        return chosen.mean_C, chosen.variance_C

    return source


def joint(table: dict[Site, Moments]) -> Statistics:
    """Each layer by one set of statistics over all its calls."""
    whole = union(table)
    return lambda site, x: (whole[site[0]].mean_C, whole[site[0]].variance_C)


def union(table: dict[Site, Moments]) -> dict[str, Moments]:
    """Population statistics of each layer over all its calls."""
    result: dict[str, Moments] = {}
    for (name, _), site_moments in sorted(table.items(), key=lambda item: item[0]):
        result[name] = result[name].merge(site_moments) if name in result else site_moments
    return result


def recalibrate(model: nn.Module, clips: Clips, index_N: Tensor, frames: int, size: int) -> list[str]:
    """Replace the running statistics of every batch-statistics layer by the population's over clips `index_N`.

    One joint set a layer, over all its calls (as many as a buffer can hold), from batches of the training size shared
    out over the ranks; the same buffers on every rank. What training normalised counts, absent bodies included where
    they were. Returns the layers that are called more than once in a forward pass: a joint set is a mixture that need
    not fit them (the doctor's `reuse`). After Wu & Johnson 2021, arXiv 2105.07576, section 3.
    """
    was_training = model.training
    model.eval()
    positions = epoch_batches(torch.arange(len(index_N)), clips.label_N, size, seed=0, epoch=0, order="once")
    mine = positions[distributed.rank() :: distributed.world_size()]

    def make(position: Tensor) -> Batch:
        return clips.batch(index_N[position], frames)

    def forward(model: nn.Module, batch: Batch) -> None:
        model(batch.x_NCTVM, batch.present_NMT)

    table = population(forward, model, ahead(make, mine, clips.workers))
    seen = union(table)
    layers: dict[str, Any] = batch_norms(model)
    reused = []
    for name, layer in layers.items():
        if layer.running_mean is None:
            continue
        whole, calls = _over_ranks(seen.get(name), sum(site == name for site, _ in table), layer.running_mean)
        if calls > 1:
            reused.append(name)
        if whole.count:
            layer.running_mean.copy_(whole.mean_C)
            layer.running_var.copy_(whole.variance_C)
    model.train(was_training)
    return reused


def _over_ranks(mine: Moments | None, calls: int, like_C: Tensor) -> tuple[Moments, int]:
    """Union of every rank's moments of one layer, and the most calls that any rank saw; a rank may have seen none."""
    zero_C = torch.zeros_like(like_C, dtype=torch.float64)
    own = mine or Moments(zero_C, zero_C, 0.0)
    row = torch.cat([own.mean_C, own.variance_C, zero_C.new_tensor([own.count, calls])])
    ranks = distributed.stack_over_ranks(row)
    size = len(like_C)
    whole = Moments(zero_C, zero_C, 0.0)
    for rank in ranks:
        whole = whole.merge(Moments(rank[:size], rank[size:-2], float(rank[-2])))
    return whole, int(ranks[:, -1].max())

"""Accuracy in a named statistics mode: running, batch, or a table of recalibrated statistics.

Four accuracies tell where a gap comes from (dropout is off in all of them):
A train clips, running statistics; B the same clips, statistics of their own shuffled batch;
C evaluation clips, running; D evaluation clips, batch statistics.
Normalization gap = B - A, generalization gap = B - D.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.data import Clips, epoch_batches
from pipeline.norms import batch_norms, moments, normalize

Site = tuple[str, int]  # a layer's name and the number of its call within one forward pass
Statistics = Callable[[Site, Tensor], tuple[Tensor, Tensor]]  # a layer's input -> mean (C,), biased variance (C,)

# Clips that A and B are measured on at most: enough for a standard error of one point.
TRAIN_PROBE = 2000


@contextmanager
def statistics(model: nn.Module, source: Statistics | None) -> Iterator[None]:
    """Within the context every batch norm of `model` normalises by `source`'s statistics; None: by its running ones.

    Buffers, modes and parameters stay as they are. Calls are counted anew in each forward pass of `model`.
    """
    if source is None:
        yield
        return
    calls: Counter[str] = Counter()

    def replace(name: str, layer: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        site = (name, calls[name])
        calls[name] += 1
        mean, variance = source(site, x)
        return normalize(x, mean, variance, layer.weight, layer.bias, layer.eps)

    handles = [model.register_forward_pre_hook(lambda *_: calls.clear())]
    handles += [layer.register_forward_hook(partial(replace, name)) for name, layer in batch_norms(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def batch_statistics(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
    """The statistics of the batch itself, as in training."""
    mean, variance, _ = moments(x)
    return mean, variance


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


def predict(
    model: nn.Module, clips: Clips, index_N: Tensor, frames: int, size: int, source: Statistics | None = None
) -> Prediction:
    """Logits for clips `index_N`, in shuffled batches of `size`, the batches shared out over the ranks.

    Batch statistics are those of a whole batch, whatever the number of ranks. The model must be in eval mode.
    """
    positions = epoch_batches(torch.arange(len(index_N)), clips.label_N, size, seed=0, epoch=0, order="once")
    logits = torch.zeros(len(index_N), clips.classes, device=clips.device)
    with torch.no_grad(), statistics(model, source):
        for position in positions[distributed.rank() :: distributed.world_size()]:
            batch = clips.batch(index_N[position], frames)
            logits[position.to(clips.device)] = model(batch.x_NCTVM, batch.present_NMT).float()
    return Prediction(distributed.total(logits), clips.label_N[index_N.to(clips.device)])


def probe(index_N: Tensor) -> Tensor:
    """At most TRAIN_PROBE training clips, spread evenly and always the same."""
    step = max(1, len(index_N) // TRAIN_PROBE)
    return index_N[::step][:TRAIN_PROBE]


def four_accuracies(
    model: nn.Module, clips: Clips, train_N: Tensor, held_out_N: Tensor, frames: int, size: int
) -> dict[str, float]:
    """A, B and, when there are held-out clips, C and D, as fractions."""
    model.eval()

    def measure(running: str, batch: str, index_N: Tensor) -> dict[str, float]:
        by_running = predict(model, clips, index_N, frames, size).top1
        if not batch_norms(model):
            return {running: by_running, batch: by_running}
        return {running: by_running, batch: predict(model, clips, index_N, frames, size, batch_statistics).top1}

    return measure("A", "B", train_N) | (measure("C", "D", held_out_N) if len(held_out_N) else {})


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


Rows = Callable[[Any, Tensor, int], Tensor | None]  # batch, a layer's input, call -> which rows count, None: all


def population(
    forward: Callable[[nn.Module, Any], Any], model: nn.Module, batches: Iterable[Any], rows: Rows | None = None
) -> dict[Site, Moments]:
    """Population statistics at each call site, every layer above normalised by its batch's statistics.

    Streaming, in float64, dropout off. With `rows`, only the rows it selects count (absent bodies weigh nothing).
    """
    table: dict[Site, Moments] = {}
    current: list[Any] = [None]

    def collect(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
        chosen = rows(current[0], x, site[1]) if rows else None
        mean, variance, count = moments((x if chosen is None else x[chosen]).double())
        new = Moments(mean, variance, float(count))
        table[site] = table[site].merge(new) if site in table else new
        return batch_statistics(site, x)

    with torch.no_grad(), statistics(model, collect):
        for batch in batches:
            current[0] = batch
            forward(model, batch)
    return table


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

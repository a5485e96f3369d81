"""Collect statistics of call sites: one collector for the doctor, the accuracies and recalibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .memory import memory_of
from .moments import EXACT, MEASURED, Moments, Precision, wide_dtype
from .sites import Site, batch_norms, by_moments_alone, slot_of, statistics

SiteMoments = dict[Site, Moments]
# batch, a layer's input (B, C, ...), body slot (the layer's own, else the number of the call) -> which rows (B,), or
# places in them (B, ...), hold something real; None: all.
Rows = Callable[[Any, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Seen:
    """Statistics of every call site over one pass, the layers above normalized as that pass did."""

    population: SiteMoments = field(default_factory=dict)
    real: SiteMoments = field(default_factory=dict)
    """The same over rows of real bodies only; empty when absent rows are unknown."""
    batches: SiteMoments = field(default_factory=dict)
    """Mean and variance of the batches' means, each weighted by its number of values (so that a small batch is not
    taken for an unusual one)."""
    passes: Counter[Site] = field(default_factory=Counter)
    """Batches seen."""
    nonfinite: Counter[Site] = field(default_factory=Counter)
    """Batches whose input to the layer held a non-finite number."""
    shares: SiteMoments = field(default_factory=dict)
    """Logarithm of the share of real rows in a batch (1,), over the batches that have any."""

    def layers(self) -> dict[str, Moments]:
        """Return the population statistics of each layer over all its calls."""
        return union(self.population)


class Collector:
    """A statistics source that normalizes by the batch, as in training, and keeps what every call site sees.

    Its memory does not grow with the number of batches.

    Args:
        model: The model whose batch norms are watched.
        rows: Which rows of a layer's input hold something real; None: all do.
        by_real_rows: Normalize by the real rows of the batch, so that layers below see what that gives.
        hand_over: Normalize by the moments that were just computed, where a layer's formula needs no more than them.
            Off: each layer normalizes by its own kernel, bit for bit as in training.
        precision: Number types of the moments.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Rows | None = None,
        *,
        by_real_rows: bool = False,
        hand_over: bool = True,
        precision: Precision = MEASURED,
    ) -> None:
        layers = batch_norms(model)
        self.slots = {name: slot_of(layer) for name, layer in layers.items()}
        self.handed_over = {name for name, layer in layers.items() if hand_over and by_moments_alone(layer)}
        self.memories = {name: memory for name, layer in layers.items() if (memory := memory_of(layer))}
        self.rows, self.by_real_rows, self.precision = rows, by_real_rows, precision
        self.batch: Any = None
        self.seen = Seen()

    def __call__(self, site: Site, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Count x (B, C, ...) and return the statistics to normalize it by; None: those of the batch."""
        memory = self.memories.get(site[0])
        new = memory.moments(x, self.precision) if memory else Moments.of(x, self.precision)
        add(self.seen.population, site, new)
        self.seen.passes[site] += 1
        if new.finite:
            add(self.seen.batches, site, Moments(new.mean_C, torch.zeros_like(new.mean_C), new.count))
        else:
            self.seen.nonfinite[site] += 1
        if self.rows is not None:
            real = self._real(site, x, new, self.rows)
            add(self.seen.real, site, real)
            if real.count:
                share = torch.tensor([real.count / new.count], dtype=torch.float64).log()
                add(self.seen.shares, site, Moments(share, torch.zeros_like(share), 1.0))
            real = self.shared(site, real) if self.by_real_rows else real
            if self.by_real_rows and real.count > 1:
                return _for(x, real)
        if x.requires_grad and torch.is_grad_enabled():
            return None  # a forward that differentiates goes through the statistics of the batch
        if site[0] not in self.handed_over:
            return None
        new = self.shared(site, new)
        return _for(x, new) if new.count > 1 else None

    def shared(self, site: Site, new: Moments) -> Moments:
        """Return the moments to normalize a batch by, given those of its rows here."""
        return new

    def of_batches(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield (positions, batch) as they are given, and remember the batch for `rows`."""
        for positions, self.batch in batches:
            yield positions, self.batch
            self.batch = None  # a large batch must be gone before the next one is made

    def _real(self, site: Site, x: Tensor, new: Moments, rows: Rows) -> Moments:
        slot = self.slots[site[0]]
        chosen = rows(self.batch, x, site[1] if slot is None else slot)
        return new if chosen is None else Moments.of(chosen_rows(x, chosen), self.precision)


def chosen_rows(x: Tensor, chosen: Tensor) -> Tensor:
    """Return the rows (B,), or the places (B, ...) in them, of x (B, C, ...) that `chosen` selects, as (R, C, ...)."""
    return x[chosen] if chosen.dim() == 1 else x.movedim(1, -1)[chosen]


def population(
    forward: Callable[[nn.Module, Any], Any],
    model: nn.Module,
    batches: Iterable[Any],
    collector: Collector | None = None,
) -> SiteMoments:
    """Compute the population statistics of each call site, every layer above normalized by its batch's statistics.

    Streaming and in float64. Layers normalize by these very moments where they can: torch's kernel sums in float32, and
    where an absent body leaves a channel without variance its error would be divided by sqrt(eps) and passed on.

    Args:
        forward: Puts a batch through the model, in any number of calls of it or of its parts.
        model: A model in eval mode.
        batches: What `forward` takes.
        collector: What collects; None: a `Collector` of all rows.
    """
    collector = collector or Collector(model, precision=EXACT)
    calls: Counter[str] = Counter()
    with torch.no_grad(), statistics(model, collector, calls):
        for batch in batches:
            calls.clear()
            collector.batch = batch
            forward(model, batch)
    return collector.seen.population


def add(table: SiteMoments, site: Site, new: Moments) -> None:
    """Merge what a call site has seen into its entry."""
    table[site] = table[site].merge(new) if site in table else new


def union(table: SiteMoments) -> dict[str, Moments]:
    """Return the population statistics of each layer over all its calls."""
    result: dict[str, Moments] = {}
    for (name, _), site_moments in sorted(table.items(), key=lambda item: item[0]):
        result[name] = result[name].merge(site_moments) if name in result else site_moments
    return result


def _for(x: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    return moments.mean_C.to(wide_dtype(x)), moments.variance_C.to(wide_dtype(x))

"""Running statistics of layers that are not torch's plain batch norm, and their output by other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .moments import EXACT, Moments, Precision, wide

# Attribute of a layer that holds what `effects` found out about it.
NOTED = "_normdoctor_memory"


@dataclass(frozen=True)
class Memory:
    """Running statistics of a layer, as buffers or as parameters without gradient.

    Attributes:
        mean: Name of the running mean; None: the layer keeps none (it normalizes by the variance alone).
        spread: Name of the running variance or standard deviation; None: the layer only centres.
        form: Meaning of `spread`.
        axis: Axis of the channels in the layer's input.
        per_sample: Whether training normalizes each sample by its own statistics, as an instance norm does.
        by_moments_alone: Whether the output in training follows from the batch's mean and variance alone.
        momentum: Weight of a new batch in an update; None: that of the layer's attribute.
        frozen: Whether training uses the running statistics.
        part: First entry and number of entries that `F.batch_norm` is called with, where the layer itself is not
            called; None: the layer is called.
    """

    mean: str | None = "running_mean"
    spread: str | None = "running_var"
    form: Literal["variance", "deviation"] = "variance"
    axis: int = 1
    per_sample: bool = False
    by_moments_alone: bool = True
    momentum: float | None = None
    frozen: bool = False
    part: tuple[int, int] | None = None

    def moments(self, x: Tensor, precision: Precision) -> Moments:
        """Return what the layer's running statistics would learn of x: zeros for an entry that it does not keep."""
        x = x.movedim(self.axis, 1)
        found = Moments.of_instances(x, precision) if self.per_sample else Moments.of(x, precision)
        if self.mean is None:
            return Moments(torch.zeros_like(found.mean_C), found.variance_C, found.count, found.averaged)
        if self.spread is None:
            return Moments(found.mean_C, torch.ones_like(found.variance_C), found.count, averaged=True)
        return found

    def moments_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (C,) and biased variance (C,) of x in float64."""
        found = self.moments(x, EXACT)
        return found.mean_C, found.variance_C

    def kept(self, mean_C: Tensor, variance_C: Tensor) -> dict[str, Tensor]:
        """Return the entries that hold these statistics, flat."""
        entries = {}
        if self.mean:
            entries[self.mean] = mean_C
        if self.spread:
            entries[self.spread] = variance_C if self.form == "variance" else variance_C.sqrt()
        return entries

    def running(self, layer: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Return the layer's running mean (C,) and variance (C,); None where it keeps none."""
        mean: Tensor | None = getattr(layer, self.mean, None) if self.mean else None
        spread: Tensor | None = getattr(layer, self.spread, None) if self.spread else None
        like = mean if mean is not None else spread
        if like is None:
            return None
        mean_C = torch.zeros_like(like) if mean is None else mean.detach().clone()
        spread_C = torch.ones_like(like) if spread is None else spread.detach().clone()
        variance_C = spread_C if self.form == "variance" else spread_C.square()
        return self.used(mean_C.flatten()), self.used(variance_C.flatten())

    def used(self, entries_C: Tensor) -> Tensor:
        """Return the entries of a layer's flat tensor that act."""
        return entries_C if self.part is None else entries_C.narrow(0, *self.part)


def memory_of(layer: nn.Module) -> Memory | None:
    """Return where a layer keeps running statistics; None for torch's plain batch norms and for layers without any."""
    noted: Memory | None = layer.__dict__.get(NOTED)
    if noted is not None:
        return noted
    if isinstance(layer, _InstanceNorm):
        return None if layer.running_mean is None else Memory(per_sample=True, by_moments_alone=False)
    if isinstance(layer, _BatchNorm) and not is_plain(layer):
        return Memory()
    return None


def forget(model: nn.Module) -> None:
    """Remove what `effects` noted on the layers of a model."""
    for module in model.modules():
        module.__dict__.pop(NOTED, None)


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer's forward is that of torch's batch norms."""
    return type(layer).forward in (_BatchNorm.forward, SyncBatchNorm.forward)


@contextmanager
def holding(layer: Any, memory: Memory, mean_C: Tensor, variance_C: Tensor) -> Iterator[None]:
    """Let a layer hold these running statistics, in eval mode, within the context.

    Its tensors are exchanged, not written to: an outer derivative may need them.
    """
    exchanged = {}
    for name, value in memory.kept(mean_C, variance_C).items():
        table = _table(layer, name)
        exchanged[name] = table, table[name]
        like = table[name] if table[name] is not None else wide(value)
        new = value.detach().to(like).reshape(like.shape)
        table[name] = nn.Parameter(new, requires_grad=False) if table is layer._parameters else new
    try:
        with in_mode(layer, training=False):
            yield
    finally:
        for name, (table, value) in exchanged.items():
            table[name] = value


def by_own_batch(layer: Any, memory: Memory, forward: Callable[[], Tensor]) -> Tensor:
    """Return a layer's output in training mode and leave its buffers and frozen parameters as they are."""
    tables = [layer._buffers, layer._parameters]
    before = [dict(table) for table in tables]
    for name, value in before[0].items():
        layer._buffers[name] = None if value is None else value.clone()
    for name in (memory.mean, memory.spread):
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(layer._parameters[name].detach().clone(), requires_grad=False)
    try:
        with in_mode(layer, training=True):
            return forward()
    finally:
        for table, values in zip(tables, before, strict=True):
            table.update(values)


@contextmanager
def in_mode(layer: nn.Module, training: bool) -> Iterator[None]:
    """Put a layer itself, not its parts, into a mode within the context: dropout inside it keeps its own."""
    before = layer.training
    layer.training = training
    try:
        yield
    finally:
        layer.training = before


def _table(layer: Any, name: str) -> Any:
    return layer._parameters if name in layer._parameters else layer._buffers

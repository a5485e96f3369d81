"""Call sites of batch norms: find the layers, count their calls, and run a model by statistics of one's choice.

A layer is any torch `_BatchNorm`. One with a formula of its own answers the protocol `StatisticsLayer`; torch's own
layers, which do not, are handled here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .moments import moments, normalize

Site = tuple[str, int]  # a layer's name and the number of its call within one forward pass
# A layer's input -> mean (C,), biased variance (C,); None: those of the batch, used as the layer does in training.
Statistics = Callable[[Site, Tensor], tuple[Tensor, Tensor] | None]


class StatisticsLayer(Protocol):
    """The questions that a batch-statistics layer with a formula of its own answers; buffers stay as they are."""

    frozen: bool
    """True if training uses the running statistics: then it is not a batch norm any more."""
    slot: int | None
    """The body slot whose rows alone reach the layer; None: the number of the call tells."""
    by_moments_alone: bool
    """True if `normalize_by_batch(x)` equals `normalize_by(x, mean, variance)` by the moments of x."""

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the output for x (B, C, ...) by these statistics."""

    def normalize_by_batch(self, x: Tensor) -> Tensor:
        """Return the output in training for x (B, C, ...), by the batch's own statistics."""


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return every layer that normalizes by statistics of the batch, by its first name; a reused layer once.

    Frozen layers are left out.
    """
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not getattr(layer, "frozen", False)
    }


def has_formula(layer: nn.Module) -> TypeGuard[StatisticsLayer]:
    """Return whether a layer answers for itself, rather than being torch's own."""
    return hasattr(layer, "normalize_by") and hasattr(layer, "normalize_by_batch")


def by_moments_alone(layer: _BatchNorm) -> bool:
    """Return whether a layer's output in training is its input normalized by the batch's moments, and nothing else."""
    return layer.by_moments_alone if has_formula(layer) else True


def slot_of(layer: _BatchNorm) -> int | None:
    """Return the body slot whose rows alone reach a layer, if it has one."""
    return layer.slot if has_formula(layer) else None


def output_by(layer: _BatchNorm, x: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return a batch norm's output for x by (mean (C,), biased variance (C,)); buffers stay as they are.

    None: by the statistics of the batch, as in training.
    """
    if has_formula(layer):
        return layer.normalize_by_batch(x) if statistics is None else layer.normalize_by(x, *statistics)
    mean, variance = moments(x)[:2] if statistics is None else statistics
    return normalize(x, mean, variance, layer.weight, layer.bias, layer.eps)


@contextmanager
def statistics(model: nn.Module, source: Statistics | None, calls: Counter[str] | None = None) -> Iterator[None]:
    """Let every batch norm of `model` normalize by `source`'s statistics within the context; None: by its running ones.

    Buffers, modes and parameters stay as they are. Compiled parts of the model run eagerly meanwhile: compiled code
    would not call the hooks.

    Args:
        model: The model.
        source: The statistics.
        calls: Calls so far of each layer, which the caller clears before each batch. None: they are counted from zero
            in each forward pass of `model`.
    """
    if source is None:
        yield
        return
    cleared_by_caller = calls is not None
    calls = Counter() if calls is None else calls

    def replace(name: str, layer: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        x = arguments[0]
        site = (name, calls[name])
        calls[name] += 1
        return output_by(layer, x, source(site, x))

    handles = [] if cleared_by_caller else [model.register_forward_pre_hook(lambda *_: calls.clear())]
    handles += [layer.register_forward_hook(partial(replace, name)) for name, layer in batch_norms(model).items()]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers at the end of the context."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        restore_buffers(model, before)


def restore_buffers(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Write `before` into the buffers that differ from it and return their names."""
    changed = [name for name, buffer in model.named_buffers() if not same_bits(buffer, before[name])]
    with torch.no_grad():
        for name in changed:
            model.get_buffer(name).copy_(before[name])
    return changed


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, NaN being equal to itself."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())

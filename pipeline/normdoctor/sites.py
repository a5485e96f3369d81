"""Call sites of batch norms: find the layers, count their calls, and run a model by statistics of one's choice.

A layer with a formula of its own answers the protocol `StatisticsLayer`. torch's own batch norms are computed here. Any
other layer runs its own forward with other statistics in place of its running ones (`memory`), so that an activation or
a dropout inside it stays.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .functional import Call, Intercepted, owners_of_parts, pointer
from .memory import by_own_batch, holding, in_mode, memory_of
from .moments import moments, normalize

Site = tuple[str, int]  # a layer's name and the number of its call within one batch
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


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """Return every layer that normalizes by statistics of the batch, by its first name; a reused layer once.

    Frozen layers are left out. Layers that are no `_BatchNorm` are known from their type (instance norms with running
    statistics), or from their effect, once `effects.note_layers` has looked at the model.
    """
    return {name: layer for name, layer in model.named_modules() if _follows_batches(layer)}


def _follows_batches(layer: nn.Module) -> bool:
    if getattr(layer, "frozen", False):
        return False
    memory = memory_of(layer)
    return not memory.frozen if memory else isinstance(layer, _BatchNorm)


def has_formula(layer: nn.Module) -> TypeGuard[StatisticsLayer]:
    """Return whether a layer answers for itself."""
    return hasattr(layer, "normalize_by") and hasattr(layer, "normalize_by_batch")


def by_moments_alone(layer: nn.Module) -> bool:
    """Return whether a layer's output in training is its input normalized by the batch's moments, and nothing else."""
    if has_formula(layer):
        return layer.by_moments_alone
    memory = memory_of(layer)
    return memory is None or memory.by_moments_alone


def slot_of(layer: nn.Module) -> int | None:
    """Return the body slot whose rows alone reach a layer, if it has one."""
    return layer.slot if has_formula(layer) else None


def output_by(layer: Any, x: Tensor, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return a batch norm's output for x by (mean (C,), biased variance (C,)); buffers stay as they are.

    None: by the statistics of the batch, as in training.
    """
    return _output(layer, layer.forward, (x,), {}, x, statistics)


def _output(
    layer: Any,
    forward: Callable[..., Tensor],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    x: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Return `output_by`; `forward` is the layer's own, with the arguments of the call."""
    if has_formula(layer):
        return layer.normalize_by_batch(x) if statistics is None else layer.normalize_by(x, *statistics)
    memory = memory_of(layer)
    if memory is None:
        mean, variance = moments(x)[:2] if statistics is None else statistics
        return normalize(x, mean, variance, layer.weight, layer.bias, layer.eps)
    if statistics is None and (not memory.by_moments_alone or (x.requires_grad and torch.is_grad_enabled())):
        return by_own_batch(layer, memory, partial(forward, *arguments, **named))
    mean, variance = memory.moments_of(x) if statistics is None else statistics
    with holding(layer, memory, mean, variance):
        return forward(*arguments, **named)


@contextmanager
def statistics(model: nn.Module, source: Statistics | None, calls: Counter[str] | None = None) -> Iterator[None]:
    """Let every batch norm of `model` normalize by `source`'s statistics within the context; None: by its running ones.

    Buffers, modes and parameters stay as they are. Compiled parts of the model run eagerly meanwhile: compiled code
    would not call a layer's own forward.

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
    counted: Counter[str] = Counter() if calls is None else calls

    def replaced(name: str, layer: nn.Module, forward: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
        x = arguments[0] if arguments else next(iter(named.values()))
        site = (name, counted[name])
        counted[name] += 1
        return _output(layer, forward, arguments, named, x, source(site, x))

    def answered(call: Call) -> Tensor | None:
        name = parts.get((pointer(call.running_mean), call.input.shape[1]))
        if name is None:
            return None
        site = (name, counted[name])
        counted[name] += 1
        mean, variance = source(site, call.input) or moments(call.input)[:2]
        return normalize(call.input, mean, variance, call.weight, call.bias, call.eps)

    handles = [] if cleared_by_caller else [model.register_forward_pre_hook(lambda *_: counted.clear())]
    layers = batch_norms(model)
    parts = owners_of_parts(layers)
    own = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.__dict__["forward"] = partial(replaced, name, layer, layer.forward)
    try:
        with eagerly(), Intercepted(answered) if parts else nullcontext():
            yield
    finally:
        for name, layer in layers.items():
            del layer.__dict__["forward"]
            if own[name] is not None:
                layer.__dict__["forward"] = own[name]
        for handle in handles:
            handle.remove()


def eagerly() -> AbstractContextManager[Any]:
    """Return a context in which compiled parts of a model run eagerly; before torch 2.6 there is none.

    Where the compiler is not loaded nothing is compiled, and asking it would load it: more than a second.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None or "torch._dynamo" not in sys.modules:
        return nullcontext()
    return set_stance("force_eager")


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the modes of the model's modules at the end of the context."""
    before = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextmanager
def in_training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules themselves, not their parts, into training mode within the context."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(in_mode(module, training=True))
        yield


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

"""Find layers by their effect: which ones follow batch statistics, whatever their class, and where they keep them.

A layer is examined by itself, on the input that one batch gives it. Its running statistics are the entries that a pass
in training mode moves towards the input's mean and variance, and that its output in eval mode depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .functional import parts_used
from .memory import NOTED, Memory, by_own_batch, holding, in_mode, is_plain, memory_of
from .sites import buffers_kept, eagerly, has_formula, same_bits

# An entry is a mean or a variance where an update moves it to within this share of a standard deviation, or of the
# variance, of the input's.
CLOSE = 0.02
# Updates by less than this are rounding errors.
LEAST_MOMENTUM = 1e-6
# Outputs that differ by less than this share of their deviation are equal.
SAME_OUTPUT = 1e-3

Forward = Callable[[], Any]
Kind = Literal["mean", "variance", "deviation", "sample variance", "sample deviation"]


class _Call(NamedTuple):
    arguments: tuple[Any, ...]
    named: dict[str, Any]


class _Entry(NamedTuple):
    """An entry of a layer that follows its input: what it learns, along which axis, and how fast."""

    kind: Kind
    axis: int
    momentum: float
    error: float


def note_layers(model: nn.Module, forward: Forward) -> None:
    """Note on each layer of a model of ours (a copy) where it keeps running statistics, if its class does not tell.

    Args:
        model: A copy of the user's model, in eval mode.
        forward: Puts one batch through it.
    """
    with eagerly():
        used = parts_used(model, forward)
    for owner, part in used.items():
        owner.__dict__[NOTED] = part
    candidates = {layer for layer in model.modules() if _may_keep_statistics(layer)}
    if not candidates:
        return
    with buffers_kept(model), torch.no_grad():
        for layer, call in _first_calls(candidates, forward).items():
            memory = examined(layer, call.arguments, call.named)
            if memory is not None:
                layer.__dict__[NOTED] = memory


def _may_keep_statistics(layer: nn.Module) -> bool:
    """Return whether a layer has floating-point entries that no optimizer trains, and no formula that is known."""
    if has_formula(layer) or (isinstance(layer, _BatchNorm) and is_plain(layer)):
        return False
    if type(layer).__module__.startswith("torch.nn.modules") or isinstance(layer, torch.jit.ScriptModule):
        return False
    return bool(_entries(layer)) or isinstance(layer, _BatchNorm | _InstanceNorm)


def _entries(layer: nn.Module) -> dict[str, Tensor]:
    """Return a layer's own buffers and frozen parameters of floating-point type."""
    own = {**layer._buffers, **{name: p for name, p in layer._parameters.items() if p is not None}}
    return {
        name: value
        for name, value in own.items()
        if value is not None and value.is_floating_point() and value.numel() and not value.requires_grad
    }


def _first_calls(layers: set[nn.Module], forward: Forward) -> dict[nn.Module, _Call]:
    """Return the arguments of each layer's first call."""
    calls: dict[nn.Module, _Call] = {}

    def look(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.setdefault(layer, _Call(arguments, named))

    handles = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
    try:
        with eagerly():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def examined(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Memory | None:
    """Return where a layer keeps running statistics, by its effect on the arguments of one call; None: nowhere.

    The layer stays as it is.
    """
    x = next((value for value in (*arguments, *named.values()) if isinstance(value, Tensor)), None)
    if x is None or x.dim() < 2 or not x.is_floating_point():
        return None
    layer_forward = partial(layer.forward, *arguments, **named)
    known = memory_of(layer)
    memory = known if known is not None else _found(layer, layer_forward, x) or _never_updated(layer, x)
    if memory is None:
        return None
    with in_mode(layer, training=False):
        by_running = _seeded(layer_forward)
    by_batch = _seeded(partial(by_own_batch, layer, memory, layer_forward))
    if not isinstance(by_running, Tensor) or not isinstance(by_batch, Tensor):
        return None
    if _alike(by_running, by_batch) and not _updates(layer, layer_forward):
        return replace(memory, frozen=True)
    mean, variance = memory.moments_of(x)
    with holding(layer, memory, mean + variance.sqrt() + 1, 4 * variance + 1):
        if _alike(_seeded(layer_forward), by_running):
            return None  # the running statistics are kept, and not used
    with holding(layer, memory, mean, variance):
        by_moments = _seeded(layer_forward)
    if memory.momentum == 0 and known is None and not _alike(by_moments, by_batch):
        return None  # entries that look like statistics, and have another meaning
    again = _seeded(partial(by_own_batch, layer, memory, layer_forward), seed=1)
    random = not _alike(by_batch, again)
    return replace(memory, by_moments_alone=not memory.per_sample and (random or _alike(by_moments, by_batch)))


def _seeded(forward: Forward, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return forward()


def _alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two outputs are equal up to rounding."""
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not bool(finite.any()):
        return True
    deviation = b[finite].std(correction=0).item()
    return (a - b).abs()[finite].max().item() <= SAME_OUTPUT * max(deviation, 1e-6)


def _updates(layer: nn.Module, forward: Forward) -> bool:
    """Return whether a pass in training mode changes the layer's entries, the counter of its batches included."""
    before = {name: value for name, value in layer._buffers.items() if value is not None}
    layer._buffers.update({name: value.clone() for name, value in before.items()})
    try:
        with in_mode(layer, training=True):
            _seeded(forward)
        after = {name: value for name, value in layer._buffers.items() if value is not None}
        return any(not same_bits(after[name], value) for name, value in before.items())
    finally:
        layer._buffers.update(before)


def _found(layer: nn.Module, forward: Forward, x: Tensor) -> Memory | None:
    """Return which entries of a layer follow the mean and the variance of x."""
    entries = _entries(layer)
    at_zero, at_one = (_after_update(layer, forward, entries, value) for value in (0.0, 1.0))
    learned: dict[str, _Entry] = {}
    for name in entries:
        if at_zero.get(name) is None or at_one.get(name) is None:
            continue
        momentum = 1 - (at_one[name] - at_zero[name]).double().median().item()
        if LEAST_MOMENTUM < momentum <= 1 + CLOSE:
            entry = _learned(at_zero[name].double().flatten() / momentum, x, momentum)
            if entry is not None:
                learned[name] = entry
    return _memory(learned)


def _never_updated(layer: nn.Module, x: Tensor) -> Memory | None:
    """Return entries that may be running statistics with their initial values: zeros and ones, one per channel."""
    entries = _entries(layer)
    means = {len(value.flatten()): name for name, value in entries.items() if not bool(value.any())}
    for name, value in entries.items():
        size = value.numel()
        if size in means and size in x.shape[1:] and bool((value == 1).all()):
            axis = 1 + list(x.shape[1:]).index(size)
            return Memory(means[size], name, form="variance", axis=axis, per_sample=False, momentum=0.0)
    return None


def _memory(learned: dict[str, _Entry]) -> Memory | None:
    mean = min((name for name, entry in learned.items() if entry.kind == "mean"), default=None)
    spreads = [name for name, entry in learned.items() if entry.kind != "mean"]
    spread = min(spreads, key=lambda name: learned[name].error, default=None)
    if spread is None:
        return None
    entry = learned[spread]
    return Memory(
        mean,
        spread,
        form="deviation" if entry.kind.endswith("deviation") else "variance",
        axis=entry.axis,
        per_sample=entry.kind.startswith("sample"),
        momentum=min(1.0, entry.momentum),
    )


def _after_update(layer: nn.Module, forward: Forward, entries: dict[str, Tensor], value: float) -> dict[str, Tensor]:
    """Return the entries after one pass in training mode that began with `value` everywhere."""
    tables: list[dict[str, Any]] = [layer._buffers, layer._parameters]
    before = [dict(table) for table in tables]
    for name, entry in before[0].items():
        layer._buffers[name] = None if entry is None else entry.clone()
    for name, entry in entries.items():
        table = tables[name in layer._parameters]
        filled = torch.full_like(entry, value)
        table[name] = nn.Parameter(filled, requires_grad=False) if name in layer._parameters else filled
    try:
        with in_mode(layer, training=True):
            _seeded(forward)
        return {name: getattr(layer, name).detach().clone() for name in entries}
    except (RuntimeError, ValueError, TypeError, ArithmeticError):
        return {}
    finally:
        for table, values in zip(tables, before, strict=True):
            table.update(values)


def _learned(target_C: Tensor, x: Tensor, momentum: float) -> _Entry | None:
    """Return what statistic of x an entry learns, and along which axis; None: none of them."""
    best: _Entry | None = None
    for axis in range(1, x.dim()):
        if x.shape[axis] != len(target_C):
            continue
        wide = x.double().movedim(axis, 1)
        wide = wide.reshape(*wide.shape[:2], -1)
        rows = wide.movedim(1, -1).flatten(0, 1)
        if len(rows) < 2:
            continue
        variance = rows.var(0, correction=0)
        bessel = len(rows) / (len(rows) - 1)
        statistics: dict[Kind, list[Tensor]] = {
            "mean": [rows.mean(0)],
            "variance": [variance, variance * bessel],
            "deviation": [variance.sqrt(), (variance * bessel).sqrt()],
        }
        if wide.shape[2] > 1:
            own, own_bessel = wide.var(2, correction=0).mean(0), wide.shape[2] / (wide.shape[2] - 1)
            statistics["sample variance"] = [own, own * own_bessel]
            statistics["sample deviation"] = [own.sqrt(), (own * own_bessel).sqrt()]
        for kind, values in statistics.items():
            scale = variance.sqrt() if kind == "mean" else values[0]
            error = min(((target_C - value).abs() / scale.clamp(min=1e-12)).median().item() for value in values)
            if error < CLOSE and (best is None or error < best.error):
                best = _Entry(kind, axis, momentum, error)
    return best

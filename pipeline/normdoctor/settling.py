"""Buffers that follow the weights, such as the singular vectors of spectral norm: whether they fit the weights.

A forward pass in training mode updates them, whatever its input; evaluation uses them as they are. An average of two
networks' vectors, or vectors that were loaded without their weights, fit no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .bench import Bench
from .sites import batch_norms, buffers_kept, in_training

# Passes in which the buffers come to rest, and the share of their size by which the last one still changes them.
PASSES, AT_REST = 100, 1e-4
# Changes by less than this share are rounding errors.
ROUNDING = 1e-3
# Samples in a pass.
SAMPLES = 2


def settled_buffers(bench: Bench) -> dict[str, Tensor]:
    """Return the buffers that further passes in training mode change, and the values at which they come to rest.

    Buffers that depend on the input are left out, and so are those of norms. The model stays as it is.
    """
    model = bench.model
    norms = {*batch_norms(model).values()} | {m for m in model.modules() if isinstance(m, _BatchNorm | _InstanceNorm)}
    owners = [m for m in model.modules() if m not in norms and any(map(_may_follow, m._buffers.values()))]
    batches = _two_batches(bench) if owners else []
    if len(batches) < 2:
        return {}
    with torch.no_grad(), buffers_kept(model), torch.random.fork_rng(), in_training(owners):
        before = _buffers(model)
        first, second = (_after(bench, batch, before) for batch in batches)
        following = [n for n in before if _moved(before[n], first[n]) and not _moved(first[n], second[n])]
        if not following:
            return {}
        now = second
        for _ in range(PASSES):
            last, now = now, _after(bench, batches[0], now)
            if all(_change(last[name], now[name]) < AT_REST for name in following):
                break
    return {name: now[name] for name in following if _change(before[name], now[name]) > ROUNDING}


def _may_follow(buffer: Tensor | None) -> bool:
    return buffer is not None and buffer.is_floating_point() and buffer.numel() > 1


def _two_batches(bench: Bench) -> list[Any]:
    train = bench.train
    if not train.apart:
        return [batch for _, batch in train.batches()][:2]
    positions = torch.arange(2 * SAMPLES) % len(train)
    return [batch for _, batch in train.composed(positions.split(SAMPLES))]


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if _may_follow(buffer)}


def _after(bench: Bench, batch: Any, begin: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the buffers after one pass that began with these."""
    with buffers_as(bench.model, begin):
        bench.output(batch)
        return _buffers(bench.model)


@contextmanager
def buffers_as(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let buffers have these values within the context."""
    with buffers_kept(model), torch.no_grad():
        for name, value in values.items():
            model.get_buffer(name).copy_(value)
        yield


def _moved(a: Tensor, b: Tensor) -> bool:
    return _change(a, b) > AT_REST


def _change(a: Tensor, b: Tensor) -> float:
    """Return the difference of two tensors as a share of the first."""
    return ((a - b).double().norm() / a.double().norm().clamp(min=1e-12)).item()

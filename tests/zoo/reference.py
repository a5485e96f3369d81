"""Plain train and eval passes of torch, which know nothing of the doctor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.zoo.kinds import reshuffled

Forward = Callable[[nn.Module, Any], Tensor]
Metric = Callable[[Tensor, Any], Tensor]
# Two best logits closer than this, in units of the batch's largest logit: rounding may swap them.
TIE = 1e-5


class Score(NamedTuple):
    """Result of one pass."""

    mean: float
    """Mean score over the samples."""
    ties: float
    """Share of the samples whose first choice rounding may swap."""


def norms(model: nn.Module) -> list[nn.Module]:
    """Return every layer that owns running statistics, whatever its class."""
    return [m for m in model.modules() if {"running_mean", "running_var"} & dict(m.named_buffers(recurse=False)).keys()]


@contextmanager
def by_batch(model: nn.Module) -> Iterator[None]:
    """Put the norms alone into training mode: all else (dropout, stochastic depth, second heads) stays off."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    for layer in norms(model):
        layer.training = True
    try:
        yield
    finally:
        model.eval()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def score(model: nn.Module, batches: Iterable[Any], forward: Forward, metric: Metric) -> Score:
    """Score the model as it stands."""
    total, ties, count = 0.0, 0.0, 0
    with torch.no_grad():
        for batch in batches:
            output = forward(model, batch)
            found = metric(output, batch).double()
            total, count = total + found.sum().item(), count + found.numel()
            ties += _ties(output) * found.numel()
    return Score(total / count, ties / count)


def _ties(output: Tensor) -> float:
    first, second = output.topk(2, 1).values.unbind(1)
    return ((first - second) < TIE * output.abs().max()).double().mean().item()


def both(model: nn.Module, batches: list[Any], forward: Forward, metric: Metric) -> tuple[Score, Score]:
    """Return the scores by running statistics (A) and by statistics of each batch (B)."""
    model = copy.deepcopy(model).eval()
    by_running = score(model, batches, forward, metric)
    with by_batch(model):
        return by_running, score(model, batches, forward, metric)


def train(model: nn.Module, batches: list[Any], kind: Any, rate: float, epochs: int) -> None:
    """Train briefly; the rate falls to nothing."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    model.train()
    for _ in range(epochs):
        for batch in reshuffled(batches):
            optimizer.zero_grad()
            kind.loss(kind.forward(model, batch), batch).backward()
            optimizer.step()
            schedule.step()


def recalibrate(model: nn.Module, batches: list[Any], forward: Forward) -> None:
    """Give each norm the mean of its statistics over all batches, as torch's `update_bn` does, dropout being off."""
    model.eval()
    layers = norms(model)
    momenta = [getattr(layer, "momentum", None) for layer in layers]
    with torch.no_grad():
        for number, batch in enumerate(batches):
            for layer in layers:
                layer.training, layer.momentum = True, 1 / (number + 1)  # type: ignore[assignment]
            forward(model, batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum  # type: ignore[assignment]
    model.eval()


def slow(model: nn.Module, momentum: float, updates: int) -> None:
    """Set running statistics back to what they are after a few updates of a low momentum from their initial values."""
    weight = 1 - (1 - momentum) ** updates
    for layer in norms(model):
        buffers = dict(layer.named_buffers(recurse=False))
        for name, initial in (("running_mean", 0.0), ("running_var", 1.0)):
            if buffers.get(name) is not None:
                buffers[name].mul_(weight).add_((1 - weight) * initial)

"""Measure: what the layers see, what they remember, and how accuracy depends on which statistics they use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.evaluate import Moments, Rows, Site, Statistics, batch_statistics, population, statistics
from pipeline.norms import batch_norms

Forward = Callable[[nn.Module, Any], Tensor]  # model, batch -> logits (N, K)
Correct = Callable[[Tensor, Any], Tensor]  # logits, batch -> whether each clip is right (N,)


@dataclass(frozen=True)
class Layer:
    """One batch norm as it was found."""

    running_mean_C: Tensor | None
    running_variance_C: Tensor | None
    momentum: float | None
    updates: int
    eps: float


@dataclass(frozen=True)
class Evidence:
    """All that the checks may look at."""

    training_modules: list[str]
    """Modules that were in training mode when the model was handed over."""
    changed_buffers: list[str]
    """Buffers that an evaluation pass changed."""
    layers: dict[str, Layer]
    calls: dict[str, int]
    """Calls of each layer in one forward pass."""
    population: dict[Site, Moments]
    """Of the training clips, each call site, layers above normalised by batch statistics."""
    real: dict[Site, Moments]
    """The same over rows of real bodies only; empty when absent rows are unknown."""
    correct: dict[str, Tensor]
    """A, B and, with evaluation batches, C, D: whether each clip is right."""

    def accuracy(self, name: str) -> float:
        """Accuracy A, B, C or D as a fraction."""
        return self.correct[name].double().mean().item()

    @property
    def gap(self) -> float:
        """Normalization gap B - A."""
        return self.accuracy("B") - self.accuracy("A")

    @property
    def threshold(self) -> float:
        """What a difference must exceed to count: 2 points, or 3 standard errors of the paired difference B - A."""
        difference = self.correct["B"].double() - self.correct["A"].double()
        error = difference.std(correction=0).item() / max(1, len(difference)) ** 0.5
        return max(0.02, 3 * error)


def score(
    model: nn.Module, batches: Iterable[Any], forward: Forward, correct: Correct, source: Statistics | None
) -> Tensor:
    """Whether each clip is right, (N,) bool, under the given statistics."""
    with torch.no_grad(), statistics(model, source):
        return torch.cat([correct(forward(model, batch), batch).cpu() for batch in batches])


def gather(
    model: nn.Module,
    train: Iterable[Any],
    held_out: Iterable[Any] | None,
    forward: Forward,
    correct: Correct,
    rows: Rows | None,
) -> tuple[nn.Module, Evidence]:
    """A copy of the model in eval mode, and the evidence. The model itself is not touched."""
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    patient = copy.deepcopy(model).eval()
    layers = {
        name: Layer(
            None if layer.running_mean is None else layer.running_mean.clone(),
            None if layer.running_var is None else layer.running_var.clone(),
            layer.momentum,
            0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked),
            layer.eps,
        )
        for name, layer in batch_norms(patient).items()
    }
    before = {name: buffer.clone() for name, buffer in patient.named_buffers()}
    found = {"A": score(patient, train, forward, correct, None)}
    changed = [n for n, buffer in patient.named_buffers() if not torch.equal(buffer, before[n])]
    found["B"] = score(patient, train, forward, correct, batch_statistics)
    if held_out is not None:
        found["C"] = score(patient, held_out, forward, correct, None)
        found["D"] = score(patient, held_out, forward, correct, batch_statistics)
    table = population(forward, patient, train)
    calls = {name: 1 + max((call for n, call in table if n == name), default=-1) for name in layers}
    real = population(forward, patient, train, rows) if rows and layers else {}
    return patient, Evidence(training, changed, layers, calls, table, real, found)

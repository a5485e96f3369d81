"""Accuracy in a named statistics mode: running, batch, or a table of recalibrated statistics.

Four accuracies tell where a gap comes from (dropout is off in all of them):
A train clips, running statistics; B the same clips, statistics of their own shuffled batch;
C evaluation clips, running; D evaluation clips, batch statistics.
Normalization gap = B - A, generalization gap = B - D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import epoch_batches, subsample
from pipeline.data.prefetch import prefetch
from pipeline.evaluation.metrics import cross_entropy
from pipeline.normdoctor.collector import Collector, SiteMoments
from pipeline.normdoctor.moments import PASSING, Moments, mean_shift
from pipeline.normdoctor.ranks import merged_sites
from pipeline.normdoctor.sites import Statistics, batch_norms, statistics
from pipeline.normdoctor.sources import batch_statistics

# Clips that A and B are measured on at most: enough for a standard error of one point.
TRAIN_PROBE = 2000


class Prediction(NamedTuple):
    """Logits and labels of clips, in the order that was asked for."""

    logits_NK: Tensor
    label_N: Tensor

    @property
    def correct_N(self) -> Tensor:
        """Which clips have the right first choice, (N,) bool."""
        return self.logits_NK.argmax(1) == self.label_N

    @property
    def top1(self) -> float:
        """Top-1 accuracy, a fraction."""
        return self.correct_N.double().mean().item()


Window = tuple[float, float]  # crop window: first and last point, as shares of the clip's length


def predict(
    model: nn.Module,
    clips: Clips,
    index_N: Tensor,
    frames: int,
    size: int,
    source: Statistics | None = None,
    window: Window | None = None,
) -> Prediction:
    """Return the logits of clips, in shuffled batches divided over the ranks.

    Batch statistics are those of a whole batch of `size`, whatever the number of ranks.

    Args:
        model: A model in eval mode.
        clips: The data.
        index_N: Clips to predict.
        frames: Frames per clip that the model sees.
        size: Clips per batch.
        source: Statistics to normalize by; None: the running ones.
        window: Crop window of each clip; None: the whole clip.
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
    """Return `predict` by each of several sources; every batch is collated once."""
    positions = epoch_batches(torch.arange(len(index_N)), clips.label_N, size, seed=0, epoch=0, order="once")
    logits = [torch.zeros(len(index_N), clips.classes, device=clips.device) for _ in sources]
    mine = positions[distributed.rank() :: distributed.world_size()]

    def make(position: Tensor) -> Batch:
        return clips.batch(index_N[position], frames, torch.tensor([window] * len(position)) if window else None)

    with torch.no_grad():
        for position, batch in zip(mine, prefetch(make, mine, clips.workers), strict=True):
            for logits_NK, source in zip(logits, sources, strict=True):
                with statistics(model, source):
                    logits_NK[position.to(clips.device)] = model(batch.x_NCTVM, batch.present_NMT).float()
    label_N = clips.label_N[index_N.to(clips.device)]
    return [Prediction(distributed.total(logits_NK), label_N) for logits_NK in logits]


def crops(shortest: float, count: int) -> list[Window]:
    """Return `count` crop windows, evenly spaced, half-way in length between the shortest training crop and 1."""
    length = (1 + shortest) / 2
    return [(first, first + length) for first in np.linspace(0, 1 - length, count).tolist()]


def predict_crops(
    model: nn.Module, clips: Clips, index_N: Tensor, frames: int, size: int, windows: Sequence[Window]
) -> Prediction:
    """Return the log of the mean class probabilities over several crop windows of each clip (pyskl's "10 clips")."""
    each = [predict(model, clips, index_N, frames, size, window=window) for window in windows]
    mean_NK = torch.stack([one.logits_NK.softmax(1) for one in each]).mean(0)
    return Prediction(mean_NK.log(), each[0].label_N)


def probe(index_N: Tensor) -> Tensor:
    """Return at most TRAIN_PROBE training clips, evenly spaced and always the same."""
    return subsample(index_N, TRAIN_PROBE)


class Evaluation(NamedTuple):
    """Accuracies of a network, and the state of its running statistics."""

    accuracies: dict[str, float]
    """A, B and, when there are held-out clips, C and D, as fractions."""
    norms: dict[str, dict[str, float]]
    """Layer with running statistics -> mean_shift: distance of the running mean from that of the training clips, in
    standard deviations (`normdoctor.moments.mean_shift`), at the layer's worst call."""
    loss: float | None = None
    """Cross-entropy of C (nats per clip); None without held-out clips."""


def evaluation(
    model: nn.Module, clips: Clips, train_N: Tensor, held_out_N: Tensor, frames: int, size: int
) -> Evaluation:
    """Measure accuracies A to D, and the shift of each norm's running mean, in the same passes.

    Args:
        model: Put into eval mode.
        clips: The data.
        train_N: Training clips, for A and B.
        held_out_N: Evaluation clips, for C and D; may be empty.
        frames: Frames per clip that the model sees.
        size: Clips per batch, and so per batch statistic.
    """
    model.eval()
    collector = Collector(model, hand_over=False, precision=PASSING)

    def measure(names: str, index_N: Tensor, batchwise: Statistics) -> tuple[dict[str, float], Prediction]:
        sources = [None, batchwise] if batch_norms(model) else [None]
        seen = predict_each(model, clips, index_N, frames, size, sources)
        return {names[0]: seen[0].top1, names[1]: seen[-1].top1}, seen[0]

    four, _ = measure("AB", train_N, collector)
    loss = None
    if len(held_out_N):
        of_held_out, seen = measure("CD", held_out_N, batch_statistics)
        four, loss = four | of_held_out, cross_entropy(seen.logits_NK, seen.label_N)
    return Evaluation(four, _mean_shifts(model, collector.seen.population), loss)


def _mean_shifts(model: nn.Module, table: SiteMoments) -> dict[str, dict[str, float]]:
    """Return `Evaluation.norms` from this rank's statistics of the training clips, merged over the ranks."""
    layers: dict[str, Any] = {
        name: layer for name, layer in batch_norms(model).items() if layer.running_mean is not None
    }
    whole, _ = merged_sites(table, {name: layer.running_mean for name, layer in layers.items()}, distributed.gathered)
    result: dict[str, dict[str, float]] = {}
    for name, layer in layers.items():
        running = Moments(layer.running_mean, layer.running_var, 1.0)
        shifts = [mean_shift(one, running) for (site, _), one in whole.items() if site == name]
        result[name] = {"mean_shift": max(shifts, default=0.0)}
    return result

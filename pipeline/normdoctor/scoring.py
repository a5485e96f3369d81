"""Recognise a metric that falls as predictions improve, and a score at chance, by the same network damaged.

The damaged network has its weights shuffled within each tensor: whatever it learned is lost, and its activations keep
their scale. A score that rises by the damage is a loss; one that does not fall is at chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .bench import Batches, Bench
from .intervals import paired
from .sites import modes_kept
from .sources import batch_statistics

# Samples that are scored, and the least number of scores that tells chance from skill.
SAMPLES, LEAST_SCORES = 256, 16
# Seeds of the damages, which must agree.
DAMAGES = (0, 1, 2)
# Shares of the samples that tell errors from hits: a trained network has fewer errors, a damaged one more.
FEW_ERRORS, MANY_ERRORS = 0.5, 0.6


class Scoring(NamedTuple):
    """Reading of a metric's scores."""

    sign: float = 1.0
    """Factor that makes higher scores better."""
    note: str = ""
    """Note for the reader of the scores; may be empty."""
    is_doubtful: bool = False
    """True if a fault may not show in the scores."""


def read_metric(bench: Bench, higher_is_better: bool | None, is_ready_made: bool = False) -> Scoring:
    """Return how to read the scores of a bench's metric.

    Args:
        bench: The model, in any mode, with its samples. Its modes and parameters stay as they are.
        higher_is_better: As the user says; None: a metric that a damaged network raises is a loss.
        is_ready_made: Whether the metric is one of METRICS, of which higher is better.
    """
    stated = Scoring(-1.0 if higher_is_better is False else 1.0)
    if not any(p.dim() > 1 for p in bench.model.parameters()):
        return stated
    with modes_kept(bench.model):
        bench.model.eval()
        good, damaged = _scores(bench)
    if len(good) < 2:
        return stated
    rises = all(paired(good, bad).significant for bad in damaged)
    falls = all(paired(bad, good).significant for bad in damaged)
    binary = bool(((good == 0) | (good == 1)).all())
    means = f"{good.mean().item():.3g}, and {damaged[0].mean().item():.3g} with shuffled weights"
    if higher_is_better is not None:
        contradicted = rises if higher_is_better else falls
        note = f"higher_is_better={higher_is_better} contradicts the scores: {means}" if contradicted else ""
        return Scoring(stated.sign, note, contradicted)
    is_error_rate = good.mean() < FEW_ERRORS and min(bad.mean().item() for bad in damaged) > MANY_ERRORS
    if rises and not is_ready_made and (not binary or is_error_rate):
        return Scoring(-1.0, f"the metric falls as predictions improve ({means}): it is read as a loss")
    if rises:
        return Scoring(
            note=f"the network scores worse than chance ({means}): check labels and metric; for an error rate, pass "
            "higher_is_better=False",
            is_doubtful=True,
        )
    if not falls and len(good) >= LEAST_SCORES:
        text = f"the score is at chance by batch statistics too ({means}): no cause can show in it"
        return Scoring(note=text, is_doubtful=True)
    return Scoring()


def _scores(bench: Bench) -> tuple[Tensor, list[Tensor]]:
    """Return the scores by batch statistics of the network, and of each damaged one; only where all are finite."""
    limit: int | None = SAMPLES
    good = bench.run(_some(bench, limit), batch_statistics).score_N
    if len(good) < LEAST_SCORES:  # one per batch: more of them
        limit = None
        good = bench.run(_some(bench, limit), batch_statistics).score_N
    damaged = []
    for seed in DAMAGES:
        with shuffled_weights(bench.model, seed):
            damaged.append(bench.run(_some(bench, limit), batch_statistics).score_N)
    finite = torch.isfinite(torch.stack([good, *damaged])).all(0)
    return good[finite], [bad[finite] for bad in damaged]


def _some(bench: Bench, limit: int | None) -> Batches:
    seen = 0
    for positions, batch in bench.train.batches(limit=limit):
        if limit is not None and seen >= limit:
            return
        yield positions, batch
        seen += len(positions)


@contextmanager
def shuffled_weights(model: nn.Module, seed: int) -> Iterator[None]:
    """Shuffle the elements of every parameter with two or more dimensions within the context."""
    weights = [p for p in model.parameters() if p.dim() > 1]
    before = [p.detach().clone() for p in weights]
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in weights:
            order = torch.randperm(p.numel(), generator=draw).to(p.device)
            p.copy_(p.flatten()[order].reshape(p.shape))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, own in zip(weights, before, strict=True):
                p.copy_(own)

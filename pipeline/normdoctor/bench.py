"""Run a model over its samples by any statistics and score each sample."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .batches import device_of, leaves, moved
from .calling import Forward, Metric, failed
from .collector import Collector
from .evidence import Pass
from .intervals import is_share, score_scale
from .samples import Samples
from .sites import Statistics, buffers_kept, statistics

Batches = Iterator[tuple[Tensor, Any]]


class PassEnded(Exception):  # noqa: N818 - not an error
    """The rest of a forward pass is not needed."""


class PassResult(NamedTuple):
    """Result of one pass."""

    score_N: Tensor
    """In the order of the samples' positions; one score per batch if the metric gives no more. NaN where it is not
    finite."""
    batch_N: Tensor
    """Number of the batch that each score was measured in."""
    nonfinite: float
    """Share of the samples whose score is not finite, or whose output holds NaN or infinity (-inf masks a logit)."""
    samples_per_score: float = 1.0
    """More than 1 where the metric gives one score per batch."""


class Bench:
    """A copy of the model with its samples; one call runs and scores one pass."""

    def __init__(self, model: nn.Module, train: Samples, held_out: Samples | None, forward: Forward, metric: Metric):
        self.model, self.train, self.held_out = model, train, held_out
        self.forward, self.metric = forward, metric
        self.sign = 1.0  # -1 for a loss
        self.device = device_of(model)

    def run(self, batches: Batches, source: Statistics | None) -> PassResult:
        """Score a pass under the given statistics (None: as the model is); its buffers stay as they were.

        Calls of a layer are counted per batch: `forward` may call the model, or a part of it, any number of times.

        Raises:
            ValueError: The metric gives neither one score per sample nor one per batch.
        """
        scores: list[Tensor] = []
        positions: list[Tensor] = []
        members: list[Tensor] = []
        nonfinite = samples = 0
        calls: Counter[str] = Counter()
        whole = not self.train.apart or not (self.held_out is None or self.held_out.apart)
        watched = source.of_batches(batches) if isinstance(source, Collector) else batches
        with torch.no_grad(), buffers_kept(self.model), statistics(self.model, source, calls):
            number = -1
            for at, batch in watched:  # enumerate would keep a batch until the next one is made
                number += 1
                calls.clear()
                output = self.output(batch)
                found = self._scored(output, batch)
                if whole and found.dim() == 1 and 1 < len(found) != len(at):
                    at = torch.arange(samples, samples + len(found))  # the metric knows what a sample is
                if found.numel() != len(at) and found.numel() != 1:
                    raise ValueError(
                        f"metric gave {tuple(found.shape)} for a batch of {len(at)}: it must give one score per "
                        "sample, or one for the batch, higher being better"
                    )
                found = self.sign * found.reshape(-1).to(torch.promote_types(found.dtype, torch.float32))
                bad = ~torch.isfinite(found)
                nonfinite += int((bad | nonfinite_rows(output, len(at))).sum())
                samples += len(at)
                scores.append(torch.where(bad, math.nan, found))
                positions.append(at if found.numel() == len(at) else at[:1])
                members.append(torch.full_like(positions[-1], number))
                del batch, output
        order = torch.cat(positions).argsort()
        each = samples / max(1, len(order))
        return PassResult(torch.cat(scores)[order], torch.cat(members)[order], nonfinite / max(1, samples), each)

    def watch(self, batches: Batches, source: Collector) -> None:
        """Run a pass under the given statistics without scoring it; buffers stay as they were."""
        calls: Counter[str] = Counter()
        with torch.no_grad(), buffers_kept(self.model), statistics(self.model, source, calls):
            for _, batch in source.of_batches(batches):
                calls.clear()
                self.output(batch)
                del batch

    def output(self, batch: Any) -> Any:
        """Return the model's output for a batch, on the model's device.

        Raises:
            ValueError: In one line: `forward` fails.
        """
        try:
            return self.forward(self.model, moved(batch, self.device))
        except PassEnded:
            raise
        except Exception as error:
            raise ValueError(failed("forward", error, batch)) from error

    def _scored(self, output: Any, batch: Any) -> Tensor:
        try:
            return torch.as_tensor(self.metric(output, moved(batch, self.device))).detach().cpu()
        except Exception as error:
            raise ValueError(failed("metric", error, batch)) from error

    def on_train(self, source: Statistics | None) -> PassResult:
        """Score the training samples in shuffled batches."""
        return self.run(self.train.batches(), source)

    def on_eval(self, source: Statistics | None) -> PassResult | None:
        """Score the evaluation samples in shuffled batches of the training size; None when there are none."""
        if self.held_out is None:
            return None
        return self.run(self.held_out.batches(size=self.train.size), source)

    def both(self, source: Statistics | None) -> dict[Pass, PassResult]:
        """Score the training samples (A) and, where there are any, the evaluation samples (C)."""
        passes: dict[Pass, PassResult] = {"A": self.on_train(source)}
        on_eval = self.on_eval(source)
        return passes if on_eval is None else {**passes, "C": on_eval}


def nonfinite_rows(output: Any, size: int) -> Tensor:
    """Return which of `size` samples hold NaN or infinity in any tensor of the output (nested), (N,)."""
    bad_N = torch.zeros(size, dtype=torch.bool)
    for leaf in leaves(vars(output) if is_dataclass(output) else output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() and len(leaf) == size:
            bad_N |= (leaf.isnan() | leaf.isposinf()).reshape(size, -1).any(1).cpu()
    return bad_N


def worst_score(scores: Iterable[Tensor]) -> float:
    """Return the score of a sample that has none: 0 for a share, else one deviation below the worst of all passes.

    Args:
        scores: Scores of every pass by one metric; NaN where a sample has none.
    """
    every = torch.cat([torch.zeros(0), *scores])
    finite = every[torch.isfinite(every)]
    return 0.0 if is_share(finite) else (finite.min() - score_scale(finite)).item()

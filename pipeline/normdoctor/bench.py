"""Run a model over its samples by any statistics and score each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .collector import Collector
from .evidence import Scores
from .samples import Samples
from .sites import Statistics, buffers_kept, statistics

Forward = Callable[[nn.Module, Any], Any]  # model, batch -> output; logits (N, K) for the default metric
# output, batch -> score of each sample (N,), or one score of the batch; higher is better.
Metric = Callable[[Any, Any], Tensor]
Batches = Iterator[tuple[Tensor, Any]]

OWN_FUNCTIONS = "forward=lambda model, batch: ... and metric=lambda output, batch: ..."


class PassResult(NamedTuple):
    """Result of one pass."""

    score_N: Tensor
    """In the order of the samples' positions; one score per batch if the metric gives no more."""
    nonfinite: int
    """Samples whose output holds a non-finite number."""


class Bench:
    """A copy of the model with its samples; one call runs and scores one pass."""

    def __init__(self, model: nn.Module, train: Samples, held_out: Samples | None, forward: Forward, metric: Metric):
        self.model, self.train, self.held_out = model, train, held_out
        self.forward, self.metric = forward, metric

    def run(self, batches: Batches, source: Statistics | None) -> PassResult:
        """Score a pass under the given statistics (None: as the model is); its buffers stay as they were.

        Raises:
            ValueError: The metric gives neither one score per sample nor one per batch.
        """
        scores: list[Tensor] = []
        positions: list[Tensor] = []
        nonfinite = 0
        watched = source.of_batches(batches) if isinstance(source, Collector) else batches
        with torch.no_grad(), buffers_kept(self.model), statistics(self.model, source):
            for at, batch in watched:
                output = self.forward(self.model, batch)
                found = torch.as_tensor(self.metric(output, batch)).detach().cpu()
                if found.numel() != len(at) and found.numel() != 1:
                    raise ValueError(
                        f"metric gave {tuple(found.shape)} for a batch of {len(at)}: it must give one score per "
                        "sample, or one for the batch, higher being better"
                    )
                nonfinite += _nonfinite_samples(output)
                scores.append(found.reshape(-1))
                positions.append(at if found.numel() == len(at) else at[:1])
        return PassResult(worst_for_nonfinite(torch.cat(scores))[torch.cat(positions).argsort()], nonfinite)

    def on_train(self, source: Statistics | None) -> Tensor:
        """Score the training samples in shuffled batches."""
        return self.run(self.train.batches(), source).score_N

    def on_eval(self, source: Statistics | None) -> Tensor | None:
        """Score the evaluation samples in shuffled batches of the training size; None when there are none."""
        if self.held_out is None:
            return None
        return self.run(self.held_out.batches(size=self.train.size), source).score_N

    def both(self, source: Statistics | None) -> Scores:
        """Score the training samples (A) and, where there are any, the evaluation samples (C)."""
        return with_eval({"A": self.on_train(source)}, self.on_eval(source))


def with_eval(scores: Scores, on_eval: Tensor | None) -> Scores:
    """Add the evaluation samples' scores as C, where there are any."""
    return scores if on_eval is None else {**scores, "C": on_eval}


def _nonfinite_samples(output: Any) -> int:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return 0
    bad = ~torch.isfinite(output)
    return int(bad.flatten(1).any(1).sum()) if output.dim() > 1 else int(bad.sum())


def worst_for_nonfinite(scores_N: Tensor) -> Tensor:
    """Replace non-finite scores (the loss of a NaN) by the worst finite one."""
    good_N = torch.isfinite(scores_N)
    if bool(good_N.all()):
        return scores_N
    worst = scores_N[good_N].min() if bool(good_N.any()) else torch.zeros((), dtype=scores_N.dtype)
    return torch.where(good_N, scores_N, worst)


def default_forward(model: nn.Module, batch: Any) -> Tensor:
    """Apply the model to the batch's first element."""
    return cast(Tensor, model(_input_and_label(batch)[0]))


def default_metric(logits: Any, batch: Any) -> Tensor:
    """Return whether the first choice is right; the labels (N,) are the batch's last element.

    Raises:
        ValueError: The output is not logits (N, K), or the labels are not classes (N,).
    """
    label_N = torch.as_tensor(_input_and_label(batch)[-1])
    shape = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or label_N.shape != logits.shape[:1]:
        raise ValueError(
            f"the model gives {shape} and the labels are {tuple(label_N.shape)}, not scores (N, K) and classes (N,): "
            f"define the score yourself with {OWN_FUNCTIONS}"
        )
    return logits.argmax(1) == label_N.to(logits.device)


def _input_and_label(batch: Any) -> Any:
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) < 2:
        what = f"a dict with keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch is {what}, not (input, label): define how it is used with {OWN_FUNCTIONS}")
    return batch

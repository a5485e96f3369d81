"""RE_EVALUATIONS: name -> another way to evaluate a trained network, without retraining; the network stays as it is.

To add one, write a function here that returns a predictor and name it in RE_EVALUATIONS; an arm of a study may then
use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import epoch_batches
from pipeline.evaluation import accuracies
from pipeline.evaluation.metrics import metrics
from pipeline.normdoctor.collector import SiteMoments, population
from pipeline.normdoctor.sites import Statistics, batch_norms
from pipeline.normdoctor.sources import POPULATION_SOURCES
from pipeline.run_folder import Run


class Trained(NamedTuple):
    """A trained network with its data and its training probe `train_N`."""

    config: Config
    clips: Clips
    train_N: Tensor
    model: nn.Module

    def predict(self, index_N: Tensor, source: Statistics | None = None) -> accuracies.Prediction:
        """Return the logits of these clips, with the running statistics or with those of `source`."""
        sizes = self.config.input.frames, self.config.train.batch_size
        return accuracies.predict(self.model, self.clips, index_N, *sizes, source)

    def batches(self) -> Iterator[Batch]:
        """Yield the training probe in shuffled batches of the training's size."""
        size = self.config.train.batch_size
        for index_N in epoch_batches(self.train_N, self.clips.label_N, size, seed=0, epoch=0, order="once"):
            yield self.clips.batch(index_N, self.config.input.frames)


Predict = Callable[[Tensor], accuracies.Prediction]


def momentum_0(trained: Trained) -> Predict:
    """Set momentum 0 for the evaluation, the remedy that the question tried. No layer reads it in eval mode."""
    for layer in batch_norms(trained.model).values():
        layer.momentum = 0.0
    return lambda index_N: trained.predict(index_N)


def _by_population(make: Callable[[SiteMoments], Statistics], trained: Trained) -> Predict:
    """Normalize by statistics that `make` takes from those of the training probe, per call site."""

    def forward(model: nn.Module, batch: Batch) -> Any:
        return model(batch.x_NCTVM, batch.present_NMT)

    source = make(population(forward, trained.model, trained.batches()))
    return lambda index_N: trained.predict(index_N, source)


RE_EVALUATIONS: dict[str, Callable[[Trained], Predict]] = {
    "momentum_0": momentum_0,
    **{name: partial(_by_population, make) for name, make in POPULATION_SOURCES.items()},
}


def re_evaluate(folder: Path, names: Iterable[str], read_test: bool) -> dict[str, dict[str, Any]]:
    """Re-evaluate a finished run.

    Args:
        folder: The run folder.
        names: Names in RE_EVALUATIONS.
        read_test: Evaluate the test split as well.

    Returns:
        By name: the metrics on `val` and `test`, the accuracy `A` on training clips, and `identical`, which is true if
        every logit and every buffer equals that of the plain evaluation, bit for bit.
    """
    run = Run(folder)
    config, clips, splits, model = run.config, run.clips, run.splits, run.network()
    trained = Trained(config, clips, accuracies.probe(splits.fit(config.input.fit)), model)
    parts = {"val": splits.held_out(config.input.fit), "test": splits.test if read_test else splits.test[:0]}
    parts = {name: index_N for name, index_N in parts.items() if len(index_N)}
    plain = {name: trained.predict(index_N).logits_NK for name, index_N in parts.items()}
    buffers = [buffer.clone() for buffer in model.buffers()]
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        momenta = {layer: layer.momentum for layer in batch_norms(model).values()}
        predict = RE_EVALUATIONS[name](trained)
        found = {part: predict(index_N) for part, index_N in parts.items()}
        same = all(torch.equal(found[part].logits_NK, plain[part]) for part in parts)
        same &= all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
        result[name] = {part: metrics(p.logits_NK, p.label_N) for part, p in found.items()}
        result[name] |= {"A": predict(trained.train_N).top1, "identical": same}
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    return result

"""VARIANTS: name -> another way to evaluate a network that is trained already. Nothing is retrained or kept.

To add one: a function here that gives logits, named in VARIANTS; arms of a study may then ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.config import Config
from pipeline.data.clips import Batch, Clips, epoch_batches
from pipeline.evaluation import accuracies
from pipeline.evaluation.metrics import metrics
from pipeline.normdoctor import collector, sources
from pipeline.normdoctor.sites import Statistics, batch_norms
from pipeline.train import load_run


class Trained(NamedTuple):
    """A trained network with its data."""

    config: Config
    clips: Clips
    train_N: Tensor
    model: nn.Module

    def predict(self, index_N: Tensor, source: Statistics | None = None) -> accuracies.Prediction:
        """Logits of these clips; `source`: by other statistics than the running ones."""
        sizes = self.config.input.frames, self.config.train.batch_size
        return accuracies.predict(self.model, self.clips, index_N, *sizes, source)

    def batches(self) -> Iterator[Batch]:
        """The training probe in shuffled batches of the training size."""
        size = self.config.train.batch_size
        for index_N in epoch_batches(self.train_N, self.clips.label_N, size, seed=0, epoch=0, order="once"):
            yield self.clips.batch(index_N, self.config.input.frames)


Predict = Callable[[Tensor], accuracies.Prediction]


def momentum_0(trained: Trained) -> Predict:
    """The question's own remedy: momentum 0 while evaluating. In eval mode no layer looks at its momentum."""
    for layer in batch_norms(trained.model).values():
        layer.momentum = 0.0
    return lambda index_N: trained.predict(index_N)


def joint(trained: Trained) -> Predict:
    """Each layer by one set of population statistics over all its calls."""
    table = _population(trained)
    return lambda index_N: trained.predict(index_N, sources.joint(table))


def per_call(trained: Trained) -> Predict:
    """Each call of each layer by its own population statistics."""
    table = _population(trained)
    return lambda index_N: trained.predict(index_N, sources.per_call(table))


def _population(trained: Trained) -> collector.SiteMoments:
    def forward(model: nn.Module, batch: Batch) -> Any:
        return model(batch.x_NCTVM, batch.present_NMT)

    return collector.population(forward, trained.model, trained.batches())


VARIANTS: dict[str, Callable[[Trained], Predict]] = {
    "momentum_0": momentum_0,
    "joint": joint,
    "per_call": per_call,
}


def evaluate_variants(folder: Path, names: list[str], read_test: bool) -> dict[str, dict[str, Any]]:
    """Accuracy of a finished run by each variant on val, on test and (A) on training clips.

    `identical`: whether every logit and every running statistic is the same, bit for bit, as in plain evaluation.
    """
    config, clips, splits, model = load_run(folder, distributed.join())
    trained = Trained(config, clips, accuracies.probe(splits.fit(config.input.fit)), model)
    parts = {"val": splits.held_out(config.input.fit), "test": splits.test if read_test else splits.test[:0]}
    parts = {name: index_N for name, index_N in parts.items() if len(index_N)}
    plain = {name: trained.predict(index_N).logits_NK for name, index_N in parts.items()}
    buffers = [buffer.clone() for buffer in model.buffers()]
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        momenta = {layer: layer.momentum for layer in batch_norms(model).values()}
        predict = VARIANTS[name](trained)
        found = {part: predict(index_N) for part, index_N in parts.items()}
        same = all(torch.equal(found[part].logits_NK, plain[part]) for part in parts)
        same &= all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
        result[name] = {part: metrics(p.logits_NK, p.label_N) for part, p in found.items()}
        result[name] |= {"A": predict(trained.train_N).top1, "identical": same}
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    return result

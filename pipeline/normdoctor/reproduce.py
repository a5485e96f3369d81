"""Reproduce causes: score the training samples by the statistics that a cause would leave in healthy layers.

Checks that one remedy proves are told apart this way: a cause must not only be curable, it must also cost as much.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .bench import Bench, PassResult
from .collector import Collector, SiteMoments, union
from .evidence import Pass
from .layers import Layer
from .moments import Moments
from .sites import Statistics, buffers_kept, modes_kept
from .sources import POPULATION_SOURCES, per_layer

# torch's error about one value per channel in training mode: then the model as found has no score.
ONE_VALUE = "Expected more than 1 value per channel"
# Samples that are tried as the one that was left over.
LEFT_OVER = 4


def reproduced(
    bench: Bench, layers: Mapping[str, Layer], population: SiteMoments, dropped: SiteMoments
) -> dict[Pass, PassResult]:
    """Score A by the statistics after a batch of one sample (`lone`), and by those with dropout on (`dropped`).

    Args:
        bench: The model in eval mode, with its samples.
        layers: Its layers as found.
        population: Statistics of every call site over the training samples.
        dropped: The same with dropout on; empty where it reaches no layer.
    """
    passes: dict[Pass, PassResult] = {}
    train = bench.train
    if train.sizes[1] and train.size > 1 and train.apart:
        step = max(1, len(train) // LEFT_OVER)
        tried = []
        for position in range(0, step * LEFT_OVER, step)[: len(train)]:
            single = Collector(bench.model)
            bench.run(train.composed([torch.tensor([position])]), single)
            tried.append(bench.on_train(after_lone(layers, population, single.seen.population)))
        score_N = torch.stack([one.score_N for one in tried]).mean(0)
        passes["lone"] = PassResult(score_N, tried[0].batch_N, 0.0)
    if dropped:
        passes["dropped"] = bench.on_train(POPULATION_SOURCES["joint"](population | dropped))
    return passes


def rejects_one(bench: Bench) -> str:
    """Return the layer that makes torch reject the loader's batch of one in training mode; empty where none does."""
    train, model = bench.train, bench.model
    if not train.sizes[1] or train.size == 1 or not train.apart:
        return ""
    _, batch = next(iter(train.composed([torch.tensor([0])])))
    try:
        with modes_kept(model), torch.no_grad(), buffers_kept(model), torch.random.fork_rng():
            model.train()
            bench.output(batch)
    except ValueError as error:
        if ONE_VALUE not in str(error):
            return ""
    else:
        return ""
    seen = Collector(model)
    bench.watch(train.composed([torch.tensor([0])]), seen)
    return next((site[0] for site, found in seen.seen.population.items() if found.count == 1), "a layer")


def after_lone(layers: Mapping[str, Layer], population: SiteMoments, single: SiteMoments) -> Statistics:
    """Return population statistics updated once by a batch of one sample, as training does it.

    Layers that keep no statistics of it, and those that see one value per channel (torch rejects such a batch), stay.
    """
    table: dict[str, Moments] = {}
    alone = union(single)
    for name, whole in union(population).items():
        layer, one = layers[name], alone.get(name)
        momentum = 1 / max(1, layer.updates) if layer.momentum is None else layer.momentum
        table[name] = whole
        if one is not None and one.count > 1 and one.finite:
            unbiased = one.variance_C * (one.count / (one.count - 1))
            mean, variance = whole.mean_C.lerp(one.mean_C, momentum), whole.variance_C.lerp(unbiased, momentum)
            table[name] = Moments(mean, variance, whole.count)
    return per_layer(table)

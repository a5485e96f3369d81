"""A copy of a model in training, on which its scores are measured now and then: nothing of the model is touched."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .batches import is_opaque, mapped, size_of
from .bench import Bench, PassResult, worst_score
from .calling import Forward, Metric, quietly, usage
from .collector import Collector
from .effects import note_layers
from .intervals import Difference, paired
from .layers import Layer
from .measure import copied, reject_unreadable, unwrapped
from .moments import distance
from .samples import Samples
from .sites import Statistics, batch_norms
from .sources import batch_statistics, running

# Modules whose hooks are part of a layer's formula (weight_norm, spectral_norm); all other hooks are the user's.
TORCH_HOOKS = "torch.nn.utils"


class Scores(NamedTuple):
    """Scores of the same samples by running statistics and by those of their batches."""

    mean: dict[str, float]
    """A, B and, where there are evaluation samples, C and D."""
    cost: Difference
    """B - A."""
    cost_on_eval: Difference | None
    """D - C."""


class Watched:
    """A model in training, and the copy on which it is measured.

    Args:
        model: The model; DDP, torch.compile and AveragedModel are looked into.
        forward: As in `diagnose`.
        metric: As in `diagnose`.

    Raises:
        ValueError: The model's layers cannot be seen, or its parameters are divided among ranks.
    """

    def __init__(self, model: nn.Module, forward: Forward | None, metric: Metric | str | None) -> None:
        self.model, self.forward, self.metric = model, forward, metric
        self.inner, _ = unwrapped(model)
        reject_unreadable(self.inner)
        reject_sharded(self.inner)
        self.bench: Bench | None = None

    @property
    def is_started(self) -> bool:
        """False for an AveragedModel that averages nothing yet."""
        return unwrapped(self.model)[1] != 0

    @property
    def momenta(self) -> list[float]:
        """Momentum of each layer with running statistics; a layer without such a number is left out."""
        layers = batch_norms(self.inner if self.bench is None else self.bench.model).values()
        return [m for layer in layers if isinstance(m := getattr(layer, "momentum", None), float | int)]

    def measure(self, train: Sequence[Any], held_out: Sequence[Any], sign: float = 1.0) -> Scores:
        """Score training batches (A, B) and evaluation batches (C, D) as they are, by the present weights.

        Args:
            train: Training batches.
            held_out: Evaluation batches; none where it is empty.
            sign: -1 for a metric that falls as predictions improve.
        """
        samples = whole(train)
        bench = self._present(samples)
        bench.sign = sign
        source = self._by_batch(bench.model)
        passes: dict[str, PassResult] = {}
        for some, names in ((samples, "AB"), (whole(held_out), "CD")):
            for name, statistics in zip(names, (None, source), strict=True):
                if some.kept:
                    passes[name] = bench.run(some.as_given(), statistics)
        worst = worst_score(one.score_N for one in passes.values())
        scores = {name: one.score_N.nan_to_num(worst) for name, one in passes.items()}
        # Samples are taken as independent: what they seem to show is only a reason for a diagnosis.
        costs = [paired(scores[a], scores[b]) for a, b in ("AB", "CD") if a in scores]
        mean = {name: score_N.double().mean().item() for name, score_N in scores.items()}
        return Scores(mean, costs[0], costs[1] if len(costs) > 1 else None)

    def only_lags(self, batches: Sequence[Any]) -> bool:
        """Return whether running statistics are near those of batches, by the weights of the latest measurement.

        A gap then comes from weights that move fast, or from what no statistics can undo. Averages do not move fast.
        """
        if isinstance(self.model, AveragedModel):
            return False
        bench = self._present(whole(batches))
        collector = Collector(bench.model)
        bench.watch(whole(batches).as_given(), collector)
        layers = {name: Layer.of(layer) for name, layer in batch_norms(bench.model).items()}
        if any(layer.per_sample for layer in layers.values()):
            return False
        pairs = [(found, layers[name].running) for (name, _), found in collector.seen.population.items()]
        return not any(running is None or distance(found, running).beyond_limit for found, running in pairs)

    def has_layers(self) -> bool:
        """Return whether the model has layers with statistics of batches; known after the first measurement."""
        return self.bench is None or bool(batch_norms(self.bench.model))

    def subject(self) -> nn.Module:
        """Return a copy of the model in eval mode for a diagnosis; an AveragedModel stays one."""
        is_averaged = isinstance(self.model, AveragedModel)
        return without_hooks(copy.deepcopy(self.model) if is_averaged else copied(self.inner)).eval()

    def _present(self, samples: Samples) -> Bench:
        """Return the copy with the present weights and buffers, on its bench."""
        now = [*self.inner.parameters(), *self.inner.buffers()]
        if self.bench is not None:
            own = [*self.bench.model.parameters(), *self.bench.model.buffers()]
            if [(x.shape, x.device) for x in own] == [(x.shape, x.device) for x in now]:
                with torch.no_grad():
                    for old, new in zip(own, now, strict=True):
                        old.copy_(new)
                return self.bench
        twin = without_hooks(copied(self.inner)).eval()
        how = usage(twin, samples, self.forward, self.metric)
        bench = Bench(twin, samples, None, how.forward, how.metric)
        quietly(twin, partial(note_layers, twin, lambda: bench.output(samples.kept[0])))
        self.bench = bench
        return bench

    def _by_batch(self, twin: nn.Module) -> Statistics:
        """Return the statistics that training uses: the batch's, but running ones in layers that are in eval mode."""
        frozen = {name for name, module in self.inner.named_modules() if self.model.training and not module.training}
        if not frozen:
            return batch_statistics
        by_running = running({name: Layer.of(layer) for name, layer in batch_norms(twin).items()})
        return lambda site, x: by_running(site, x) if site[0] in frozen else None


def reject_sharded(model: nn.Module) -> None:
    """Reject a model of which each rank holds a part: a pass on one rank would wait for the others.

    Raises:
        ValueError: FSDP, tensor parallelism, or DeepSpeed's third stage.
    """
    wrapped = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    if wrapped or any(type(p).__name__ == "DTensor" or hasattr(p, "ds_id") for p in model.parameters()):
        raise ValueError("the parameters are divided among ranks: gather them, and pass the model to diagnose")


def without_hooks(model: nn.Module) -> nn.Module:
    """Remove the user's hooks from a copy: they may keep what they see, and passes of the copy are not theirs."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if not type(hook).__module__.startswith(TORCH_HOOKS)]:
                del hooks[key]
    return model


def whole(batches: Sequence[Any]) -> Samples:
    """Return batches as samples that stay in them."""
    kept = list(batches)
    return Samples(kept, None, kept, Counter(size_of(batch) for batch in kept), apart=False)


def kept_apart(batch: Any) -> Any:
    """Copy a batch to the CPU: the training may write into its tensors, and needs the accelerator's memory."""
    if is_opaque(batch):
        own = batch.clone() if callable(getattr(batch, "clone", None)) else copy.deepcopy(batch)
        return own.to("cpu") if callable(getattr(own, "to", None)) else own
    return mapped(lambda x: x.detach().to("cpu", copy=True), batch)


@contextmanager
def generators_kept(loader: Iterable[Any]) -> Iterator[None]:
    """Restore the generators of a loader and of its samplers at the end of the context."""
    owners = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
    owners.append(getattr(owners[-1], "sampler", None))
    found = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
    before = [g.get_state() for g in found]
    try:
        yield
    finally:
        for generator, state in zip(found, before, strict=True):
            generator.set_state(state)


def synchronized(model: nn.Module) -> None:
    """Wait for the accelerator, so that work of the training is not counted as the monitor's."""
    tensor: Tensor | None = next(model.parameters(), None)
    if tensor is not None and tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)

"""Recalibrate: replace running statistics by those of the population, nothing retrained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from .batches import device_of, moved
from .calling import Forward, quietly, working_call
from .collector import Collector, Rows, population
from .effects import note_layers
from .forms import Repair, applied, counted
from .masking import MaskedBatchNorm
from .measure import as_given, copied, reject_unreadable, unwrapped
from .memory import Memory, forget, memory_of
from .moments import EXACT, Moments
from .ranks import all_have, are_several, merged, merged_sites
from .sites import Site, batch_norms, buffers_kept


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    forward: Forward | None = None,
    rows: Rows | None = None,
    per_call: bool = False,
    batches: int | None = None,
    over_ranks: bool | None = None,
    copy: bool = False,
) -> nn.Module:
    """Replace the running statistics of every batch norm by the population's, over the batches of a loader.

    In place of `torch.optim.swa_utils.update_bn`: variances follow the law of total variance, so they hold what differs
    between batches, and batches of different sizes count by their rows; a layer that is called several times gets one
    set over all its calls, or one per call; layers that the model does not reach, and modes, stay as they are. Each
    layer sees its input normalized by the batch above it, as in training (Wu & Johnson 2021, arXiv 2105.07576, section
    3), with dropout off. Sums are in float64. Memory does not grow with the number of batches.

    Args:
        model: Any module; DDP, torch.compile and AveragedModel are looked into.
        loader: Batches of any structure, in the batch size of training and shuffled. Read once.
        forward: (model, batch) -> anything. None: found by trial from the model's signature and the batch.
        rows: (batch, a layer's input (B, C, ...), body slot) -> which rows (B,), or places in them (B, ...), count;
            None: all do.
        per_call: Give a layer that is called several times per batch one set of statistics per call (`PerCall`).
        batches: Largest number of batches read; None: all.
        over_ranks: Merge the statistics of all ranks of torch.distributed, each of which then calls this function with
            batches of its own. None: where the model is in DDP, or holds synchronized norms. Synchronized norms
            normalize by the rows of all ranks as long as every rank has a batch.
        copy: Leave the model as it is, and return a copy of the module inside DDP, torch.compile and AveragedModel.

    Returns:
        The model that was given, or the copy; a new layer where the model itself is one that gets sets per call.

    Raises:
        ValueError: In one line: the loader has no batch, no call of the model works, activations are not finite, or
            per_call is asked of a model in DDP.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        >>> loader = torch.utils.data.DataLoader(torch.randn(64, 4) + 3, batch_size=16, shuffle=True)
        >>> model = normdoctor.recalibrate(model, loader)
    """
    inner, _ = unwrapped(model)
    reject_unreadable(inner)
    if per_call and inner is not model and not copy:
        raise ValueError(
            "per_call=True replaces layers, and the model is wrapped: pass the module inside, or copy=True."
        )
    if over_ranks is None:
        over_ranks = isinstance(model, DistributedDataParallel) or any(map(is_synchronized, inner.modules()))
    target = as_given(copied(inner)) if copy else inner
    limited = iter(islice(loader, batches))
    first = next(limited, None)
    if first is None:
        raise ValueError("The loader has no batch: pass a fresh one (an exhausted generator gives none), or a list.")
    several = over_ranks and are_several()
    changed = _recalibrated(target, chain([first], limited), first, forward, rows, per_call, several)
    return changed if copy or inner is model else model


def is_synchronized(layer: nn.Module) -> bool:
    """Return whether a layer's statistics cover the rows of all ranks in training."""
    return isinstance(layer, SyncBatchNorm) or (isinstance(layer, MaskedBatchNorm) and layer.synchronized)


class _OverRanks(Collector):
    """A collector whose synchronized layers normalize by the rows of all ranks, while every rank has a batch."""

    def __init__(self, model: nn.Module, rows: Rows | None) -> None:
        super().__init__(model, rows, by_real_rows=rows is not None, precision=EXACT)
        self.synchronized = {name for name, layer in batch_norms(model).items() if is_synchronized(layer)}
        self.together = False

    def shared(self, site: Site, new: Moments) -> Moments:
        """Return the moments of all ranks' rows."""
        return merged(new, new.mean_C) if self.together and site[0] in self.synchronized else new


def _recalibrated(
    model: nn.Module,
    batches: Iterable[Any],
    first: Any,
    forward: Forward | None,
    rows: Rows | None,
    per_call: bool,
    over_ranks: bool,
) -> nn.Module:
    """Return a model with the statistics of the batches, the first of which is given twice."""
    device = device_of(model)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        run = forward or working_call(model, moved(first, device)).run
        quietly(model, lambda: note_layers(model, lambda: run(model, moved(first, device))))
        collector = _OverRanks(model, rows)
        given = _together(batches, collector, device) if over_ranks and collector.synchronized else batches
        root_passes = _passed(model, (moved(batch, device) for batch in given), run, collector)
        for module, training in modes.items():
            module.training = training
        table = collector.seen.real if rows is not None else collector.seen.population
        if over_ranks:
            table, _ = merged_sites(table, _channels(model))
        repair = Repair.per_call(table) if per_call else Repair.joint(table)
        if repair.form.calls:
            repair = replace(repair, form=counted(repair.form, root_passes, collector.seen.passes))
        changed = _written(model, repair, collector.seen.passes)
        forget(changed)  # copies of layers, one per call, too
        return changed
    finally:
        for module, training in modes.items():
            module.training = training
        forget(model)


def _together(batches: Iterable[Any], collector: _OverRanks, device: torch.device | None) -> Iterator[Any]:
    for batch, collector.together in all_have(batches, device):
        yield batch


def _passed(model: nn.Module, batches: Iterable[Any], run: Forward, collector: Collector) -> float:
    """Collect the statistics of the batches, and return the number of forward passes of the model per batch."""
    count: Counter[str] = Counter()
    handle = model.register_forward_pre_hook(lambda *_: count.update(("model",)))

    def apply(model: nn.Module, batch: Any) -> None:
        count["batch"] += 1
        run(model, batch)

    try:
        with buffers_kept(model):
            population(apply, model, batches, collector)
    finally:
        handle.remove()
    return count["model"] / max(1, count["batch"])


def _written(model: nn.Module, repair: Repair, passes: Mapping[Site, int]) -> nn.Module:
    """Write statistics into a model; cumulative averages (momentum None) go on from as many batches."""
    for (name, _), found in repair.moments.items():
        if not found.finite:
            raise ValueError(f"The input of {name or 'the model'} is not finite: nothing was changed.")
    layers = batch_norms(model)
    for name, call in repair.moments:
        counter = layers[name]._buffers.get("num_batches_tracked")
        if counter is not None and getattr(layers[name], "momentum", None) is None:
            counter.fill_(passes[name, call])
    return applied(model, repair)


def _channels(model: nn.Module) -> dict[str, Tensor]:
    """Return a tensor with one value per channel of each layer, the same on every rank.

    Raises:
        ValueError: Nothing tells a layer's number of channels to a rank that it has not been called on.
    """
    result = {}
    for name, layer in batch_norms(model).items():
        running = (memory_of(layer) or Memory()).running(layer)
        features = getattr(layer, "num_features", None)
        if running is not None:
            result[name] = running[0]
        elif isinstance(features, int):
            result[name] = torch.empty(features, device=device_of(model))
        else:
            raise ValueError(
                f"{name or 'the model'} is a {type(layer).__name__} without running statistics or num_features: ranks "
                "cannot merge its statistics. Pass over_ranks=False on one rank."
            )
    return result

"""Randomness by its effect: dropout in training that reaches a batch norm, and outputs that are random in eval mode.

Dropout may be a module, or a call in a forward pass (`F.dropout(x, p, self.training)`): what is random is seen by
running the same samples with two seeds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .batches import leaves
from .bench import Bench
from .collector import Collector, SiteMoments
from .metrics import prediction
from .sites import batch_norms, buffers_kept, eagerly, in_training, same_bits

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Samples on which randomness is seen, and samples that the effect of dropout is then measured on.
TRIAL, MEASURED = 32, 1024
# Mean difference of two passes, as a share of the outputs' deviation, below which it is a rounding error.
ROUNDING = 1e-4


def with_dropout(bench: Bench) -> SiteMoments:
    """Return statistics of the call sites with dropout on, as in training; empty where it reaches none of them."""
    norms = set(batch_norms(bench.model).values())
    every = [module for module in bench.model.modules() if module not in norms]
    try:
        return _population_with(bench, every)
    except ValueError:  # the model rejects the batch in training mode
        return _population_with(bench, [m for m in every if isinstance(m, DROPOUTS) and m.p > 0])


def _population_with(bench: Bench, modules: list[nn.Module]) -> SiteMoments:
    """Return the statistics with modules in training mode; empty where they are the same with any seed."""

    def population(samples: int, seed: int, on: bool = True) -> SiteMoments:
        collector = Collector(bench.model)
        with torch.random.fork_rng(), in_training(modules if on else []):
            torch.manual_seed(seed)
            bench.watch(bench.train.batches(limit=samples), collector)
        return collector.seen.population

    if not modules:
        return {}
    first, second = population(TRIAL, 0), population(TRIAL, 1)
    off = population(TRIAL, 0, on=False)
    if all(_same(first, second, site) or _same(first, off, site) for site in off):
        return {}
    return population(MEASURED, 0)


def _same(a: SiteMoments, b: SiteMoments, site: Any) -> bool:
    return site not in a or site not in b or same_bits(a[site].variance_C, b[site].variance_C)


def random_in_eval(bench: Bench) -> str:
    """Return how much the outputs of a model in eval mode change between two passes, and where; empty: not at all."""
    batch = next(iter(bench.train.batches(limit=min(TRIAL, bench.train.size))))[1]
    with torch.no_grad(), buffers_kept(bench.model):
        first, second = (_traced(bench, batch, seed) for seed in (0, 1))
    one, other = (prediction(trace.pop("")[1]) for trace in (first, second))
    changed = _changed(one, other)
    if not changed:
        return ""
    inside = [name for name, (given, output) in first.items() if name in second
              and not _differ(given, second[name][0]) and _differ(output, second[name][1])]  # fmt: skip
    where = f", first in {inside[0]}" if inside else ""
    return f"outputs are random in eval mode: {changed} between two passes over the same samples{where}"


def _traced(bench: Bench, batch: Any, seed: int) -> dict[str, tuple[list[Tensor], Any]]:
    """Return inputs and output of each module's first call, in the order in which they end; the whole output: ""."""
    trace: dict[str, tuple[list[Tensor], Any]] = {}

    def note(name: str) -> Any:
        def look(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
            given = [leaf.clone() for leaf in leaves([*arguments, *named.values()]) if isinstance(leaf, Tensor)]
            trace.setdefault(name, (given, output))

        return look

    handles = [
        module.register_forward_hook(note(name or "the model's own forward"), with_kwargs=True)
        for name, module in bench.model.named_modules()
    ]
    try:
        with torch.random.fork_rng(), eagerly():
            torch.manual_seed(seed)
            output = bench.output(batch)
    finally:
        for handle in handles:
            handle.remove()
    trace[""] = ([], output)
    return trace


def _changed(one: Any, other: Any) -> str:
    """Return the difference of two outputs in words; empty where they are equal up to rounding."""
    if not _differ(one, other):
        return ""
    if isinstance(one, Tensor) and one.dim() == 2 and one.shape[1] > 1:
        share = (one.argmax(1) != other.argmax(1)).double().mean().item()
        return f"{100 * share:.0f} % of the first choices change"
    return "they change"


def _differ(one: Any, other: Any) -> bool:
    """Return whether two outputs differ by more than rounding."""
    pairs = zip(_floats(one), _floats(other), strict=False)
    return any(a.shape != b.shape or _distance(a, b) > ROUNDING for a, b in pairs)


def _floats(value: Any) -> list[Tensor]:
    return [leaf.double() for leaf in leaves([value]) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the mean difference of two tensors, in deviations of the first."""
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not bool(finite.any()):
        return 0.0
    scale = a[finite].std(correction=0).clamp(min=1e-12)
    return ((a - b).abs()[finite].mean() / scale).item()

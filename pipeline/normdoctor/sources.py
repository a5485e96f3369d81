"""Statistics sources: what a model can normalize by, other than the running statistics it evaluates with.

POPULATION_SOURCES holds those made of population statistics alone; the doctor's remedies and re-evaluations of trained
runs are built from it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from torch import Tensor

from .collector import SiteMoments, union
from .layers import Layer, running_moments
from .moments import Moments
from .sites import Site, Statistics


def batch_statistics(site: Site, x: Tensor) -> None:
    """The batch's own statistics, as in training (of its parts in ghost_bn, corrected in batch_renorm)."""


def joint(table: SiteMoments) -> Statistics:
    """One set of population statistics per layer, over all its calls."""
    whole = union(table)
    return lambda site, x: (whole[site[0]].mean_C, whole[site[0]].variance_C)


def per_call(table: SiteMoments) -> Statistics:
    """Population statistics of each call site. A site that saw no rows takes its layer's union."""
    whole = union(table)

    def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor]:
        own = table.get(site)
        chosen = own if own is not None and own.count else whole[site[0]]
        return chosen.mean_C, chosen.variance_C

    return source


POPULATION_SOURCES: dict[str, Callable[[SiteMoments], Statistics]] = {"joint": joint, "per_call": per_call}


def running(layers: Mapping[str, Layer]) -> Statistics:
    """The running statistics that each layer was found with; the batch's where it keeps none."""
    table = {name: layer.running for name, layer in layers.items()}

    def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor] | None:
        own = table[site[0]]
        return None if own is None else (own.mean_C, own.variance_C)

    return source


def per_sample(layers: Mapping[str, Layer], names: Container[str]) -> Statistics:
    """Each sample's own statistics in the named layers, the running statistics in the others."""
    as_found = running(layers)
    return lambda site, x: None if site[0] in names else as_found(site, x)


def with_eps(layers: Mapping[str, Layer], eps: Mapping[str, float]) -> Statistics:
    """Running statistics as if the named layers had these eps.

    A layer adds its own eps to the variance that it is given, so the excess is subtracted beforehand. In float32
    variance + eps - eps would lose a small variance.
    """
    as_found = running(layers)

    def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor] | None:
        own = as_found(site, x)
        if own is None or site[0] not in eps:
            return own
        return own[0], own[1] + eps[site[0]] - layers[site[0]].eps

    return source


def merged_over_ranks(layers: Mapping[str, Layer], states: Sequence[Mapping[str, Tensor]]) -> dict[str, Moments] | None:
    """Return the union of the ranks' running statistics (law of total variance), equal weight per rank.

    None where there are fewer than two ranks, or a layer lacks them.
    """
    table: dict[str, Moments] = {}
    for state in states if len(states) > 1 else ():
        for name in layers:
            if (own := running_moments(state, name)) is not None:
                table[name] = table[name].merge(own) if name in table else own
    return table if table and set(table) >= set(layers) else None


def per_layer(table: Mapping[str, Moments]) -> Statistics:
    """One set of statistics per layer, from a table of layers."""
    return lambda site, x: (table[site[0]].mean_C.to(x.device), table[site[0]].variance_C.to(x.device))

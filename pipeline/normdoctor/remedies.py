"""REMEDIES: name -> what it does, in words, and the statistics it evaluates with. Nothing is retrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.evaluation.accuracies import Moments, Site, Statistics, joint, per_call
from pipeline.normdoctor.evidence import EPS_SHARE, Evidence, drowned_share, running


@dataclass(frozen=True)
class Remedy:
    """How to undo a cause: `advice` for training, `statistics` to prove it on the trained model."""

    advice: str
    statistics: Callable[[Evidence], Statistics | None]
    """None: not to be had for this model, or no different from a simpler remedy."""
    transductive: bool = False
    """Whether it reads the evaluation samples (unlabelled): reported apart."""


def _per_call(evidence: Evidence) -> Statistics | None:
    return per_call(evidence.train.population) if max(evidence.calls.values(), default=1) > 1 else None


def _masked(evidence: Evidence) -> Statistics | None:
    return per_call(evidence.masked) if evidence.masked else None


def _ranks(evidence: Evidence) -> Statistics | None:
    """The union of the ranks' running statistics (law of total variance), ranks weighing alike."""
    states = evidence.history.ranks
    table: dict[str, Moments] = {}
    for state in states if len(states) > 1 else ():
        for name in evidence.layers:
            prefix = f"{name}." if name else ""
            mean, variance = state.get(f"{prefix}running_mean"), state.get(f"{prefix}running_var")
            if mean is not None and variance is not None:
                own = Moments(mean.cpu().double(), variance.cpu().double(), 1.0)
                table[name] = table[name].merge(own) if name in table else own
    if set(table) < set(evidence.layers) or not table:
        return None
    return lambda site, x: (table[site[0]].mean_C.to(x.device), table[site[0]].variance_C.to(x.device))


# torch's default, and what a layer that eps drowns is tried with.
EPS = 1e-5


def _eps(evidence: Evidence) -> Statistics | None:
    """Running statistics as if eps were EPS: a layer adds its eps to the variance, so what is too much is taken off."""
    drowned = {n: layer for n, layer in evidence.layers.items() if drowned_share(layer) >= EPS_SHARE}
    drowned = {n: layer for n, layer in drowned.items() if layer.eps > EPS}
    as_found = running(evidence.layers)

    def source(site: Site, x: Tensor) -> tuple[Tensor, Tensor] | None:
        own = as_found(site, x)
        if own is None or site[0] not in drowned:
            return own
        # In float32 variance + eps - eps would lose a small variance: the layer adds eps to what is given here.
        return own[0], own[1] + EPS - drowned[site[0]].eps

    return source if drowned else None


def _target(evidence: Evidence) -> Statistics | None:
    return per_call(evidence.held_out.population) if evidence.held_out is not None else None


REMEDIES: dict[str, Remedy] = {
    "eval": Remedy(
        "call model.eval() before evaluating, and model.train() after it",
        lambda evidence: running(evidence.layers),
    ),
    "joint": Remedy(
        "recalibrate: recompute one set of statistics a layer over the training samples (and raise norm.momentum, "
        "or train longer)",
        lambda evidence: joint(evidence.train.population),
    ),
    "eps": Remedy("a smaller eps (that of training, or 1e-5), or fewer dead channels", _eps),
    "ranks": Remedy(
        "merge the ranks' statistics before saving, or normalise over all ranks (norm.sync)",
        _ranks,
    ),
    "per_call": Remedy(
        "keep one set of statistics a call site (norm.persons per_person), or make one call over the bodies that "
        "are there (norm.persons masked) or over all (fold)",
        _per_call,
    ),
    "masked": Remedy(
        "leave absent bodies and padding out of the statistics (norm.persons masked)",
        _masked,
    ),
    "target": Remedy(
        "normalise the input by view or subject, or recompute the statistics on unlabelled samples of the target "
        "(transductive: report it apart)",
        _target,
        transductive=True,
    ),
}

"""REMEDIES: name -> what it does, in words, and the statistics it evaluates with. Nothing is retrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Evidence
from .layers import EPS_SHARE
from .sites import Statistics
from .sources import joint, over_ranks, per_call, running, with_eps


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


# torch's default, and what a layer that eps drowns is tried with.
EPS = 1e-5


def _eps(evidence: Evidence) -> Statistics | None:
    drowned = [n for n, layer in evidence.layers.items() if layer.drowned_share >= EPS_SHARE and layer.eps > EPS]
    return with_eps(evidence.layers, dict.fromkeys(drowned, EPS)) if drowned else None


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
        lambda evidence: over_ranks(evidence.layers, evidence.history.ranks),
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

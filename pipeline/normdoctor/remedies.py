"""REMEDIES: name -> record of a remedy: what to do in training, and the statistics that prove it on a trained model.

Nothing is retrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Evidence
from .layers import EPS_SHARE
from .sites import Statistics
from .sources import POPULATION_SOURCES, over_ranks, running, with_eps

# torch's default, and what a layer that eps drowns is tried with.
DEFAULT_EPS = 1e-5


@dataclass(frozen=True)
class Remedy:
    """A way to undo a cause.

    Attributes:
        label: What the model is normalized by, in a few words.
        advice: What to do in training.
        statistics: The statistics to prove it by; None: they cannot be had for this model, or are those of `simpler`.
        simpler: A remedy that this one contains: it is credited with what it adds.
        transductive: Whether it reads the (unlabelled) evaluation samples; reported apart.
        undoes_mode: Whether it changes the mode that the model was passed in, and no statistics.
    """

    label: str
    advice: str
    statistics: Callable[[Evidence], Statistics | None]
    simpler: str | None = None
    transductive: bool = False
    undoes_mode: bool = False


def _per_call(evidence: Evidence) -> Statistics | None:
    if max(evidence.calls.values(), default=1) <= 1:
        return None
    return POPULATION_SOURCES["per_call"](evidence.train.population)


def _masked(evidence: Evidence) -> Statistics | None:
    return POPULATION_SOURCES["per_call"](evidence.masked) if evidence.masked else None


def _eps(evidence: Evidence) -> Statistics | None:
    drowned = [
        name for name, layer in evidence.layers.items() if layer.drowned_share >= EPS_SHARE and layer.eps > DEFAULT_EPS
    ]
    return with_eps(evidence.layers, dict.fromkeys(drowned, DEFAULT_EPS)) if drowned else None


def _target(evidence: Evidence) -> Statistics | None:
    return POPULATION_SOURCES["per_call"](evidence.held_out.population) if evidence.held_out else None


REMEDIES: dict[str, Remedy] = {
    "eval": Remedy(
        "running",
        "call model.eval() before evaluating, and model.train() after it",
        lambda evidence: running(evidence.layers),
        undoes_mode=True,
    ),
    "joint": Remedy(
        "one set per layer",
        "recalibrate: recompute one set of statistics per layer over the training samples (and raise norm.momentum, "
        "or train longer)",
        lambda evidence: POPULATION_SOURCES["joint"](evidence.train.population),
    ),
    "eps": Remedy("eps 1e-5", "a smaller eps (that of training, or 1e-5), or fewer dead channels", _eps),
    "ranks": Remedy(
        "ranks merged",
        "merge the ranks' statistics before saving, or normalize over all ranks (norm.sync)",
        lambda evidence: over_ranks(evidence.layers, evidence.history.ranks),
    ),
    "per_call": Remedy(
        "one set per call",
        "keep one set of statistics per call site (norm.persons per_person), or make one call over the bodies that "
        "are present (norm.persons masked) or over all (fold)",
        _per_call,
        simpler="joint",
    ),
    "masked": Remedy(
        "without absent rows",
        "leave absent bodies and padding out of the statistics (norm.persons masked)",
        _masked,
        simpler="per_call",
    ),
    "target": Remedy(
        "of unlabelled evaluation samples",
        "normalize the input by view or subject, or recompute the statistics on unlabelled samples of the target "
        "(transductive: report it apart)",
        _target,
        transductive=True,
    ),
}

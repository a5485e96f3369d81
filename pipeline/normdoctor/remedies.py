"""REMEDIES: name -> record of a remedy: what to do in training, and the statistics that prove it on a trained model.

Nothing is retrained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .evidence import Evidence
from .finding import RECOMPUTE, Advice
from .layers import EPS_SHARE, LARGER_EPS
from .sites import Statistics
from .sources import POPULATION_SOURCES, over_ranks, per_sample, running, with_eps

# Fresh statistics over the training samples, one set per layer.
RECALIBRATION = "joint"
# torch's default, and what a layer that eps drowns is tried with.
DEFAULT_EPS = 1e-5


@dataclass(frozen=True)
class Remedy:
    """A way to undo a cause.

    Attributes:
        label: What the model is normalized by, in a few words.
        advice: What to do now, and in training.
        statistics: The statistics to prove it by; None: they cannot be had for this model, or are those of `simpler`.
        simpler: A remedy that this one contains: it is credited with what it adds.
        transductive: Whether it reads the (unlabelled) evaluation samples; reported apart.
        undoes_mode: Whether it changes the mode that the model was passed in, and no statistics.
        is_guess: Whether it sets a value that nothing in the model suggests: it must recover nearly the whole gap.
    """

    label: str
    advice: Advice
    statistics: Callable[[Evidence], Statistics | None]
    simpler: str | None = None
    transductive: bool = False
    undoes_mode: bool = False
    is_guess: bool = False


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


def _larger_eps(evidence: Evidence) -> Statistics | None:
    thin = [name for name, layer in evidence.layers.items() if layer.is_thin]
    return with_eps(evidence.layers, dict.fromkeys(thin, LARGER_EPS)) if thin else None


def _target(evidence: Evidence) -> Statistics | None:
    return POPULATION_SOURCES["per_call"](evidence.held_out.population) if evidence.held_out else None


def _own(evidence: Evidence) -> Statistics | None:
    by_sample = {name for name, layer in evidence.layers.items() if layer.per_sample}
    return per_sample(evidence.layers, by_sample) if by_sample else None


REMEDIES: dict[str, Remedy] = {
    "eval": Remedy(
        "running",
        Advice("call model.eval() before evaluating, and model.train() after it"),
        lambda evidence: running(evidence.layers),
        undoes_mode=True,
    ),
    RECALIBRATION: Remedy(
        "one set per layer",
        Advice(RECOMPUTE, "let the learning rate fall at the end of training"),
        lambda evidence: POPULATION_SOURCES["joint"](evidence.train.population),
    ),
    "eps": Remedy(
        "eps 1e-5", Advice("set bn.eps to that of training, or to 1e-5", "a smaller eps, or fewer dead channels"), _eps
    ),
    "own": Remedy(
        "of each sample itself",
        Advice(
            "set track_running_stats=False on the instance norms and delete their running_mean and running_var",
            "build instance norms without running statistics: evaluation then uses each sample's own, as training does",
        ),
        _own,
    ),
    "larger_eps": Remedy(
        "eps 1e-3",
        Advice("set bn.eps = 1e-3, with which the network was trained", "use one eps in training and evaluation"),
        _larger_eps,
        is_guess=True,
    ),
    "ranks": Remedy(
        "ranks merged",
        Advice(
            "merge the ranks' statistics",
            "merge the ranks' statistics before saving, or normalize over all ranks (SyncBatchNorm)",
        ),
        lambda evidence: over_ranks(evidence.layers, evidence.history.ranks),
    ),
    "per_call": Remedy(
        "one set per call",
        Advice(
            "keep one set of running statistics per call, recomputed over the training samples",
            "use a batch norm of its own for each call, or concatenate the inputs along the batch and make one call, "
            "without rows that are empty",
        ),
        _per_call,
        simpler="joint",
    ),
    "masked": Remedy(
        "without absent rows",
        Advice(
            "recompute the running statistics over the rows that are not padding",
            "leave padding and absent rows out of the statistics (a masked batch norm)",
        ),
        _masked,
        simpler="per_call",
    ),
    "target": Remedy(
        "of unlabelled evaluation samples",
        Advice(
            "recompute the statistics on unlabelled samples of the target (transductive: report it apart)",
            "normalize the input as the evaluation samples need it, by view, subject or device",
        ),
        _target,
        transductive=True,
    ),
}

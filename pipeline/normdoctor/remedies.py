"""REMEDIES: name -> record of a remedy: what to do in training, the statistics that prove it, and the repaired model.

Nothing is retrained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from .evidence import Evidence
from .finding import RECOMPUTE, Advice
from .forms import Form, Repair
from .layers import EPS_SHARE, LARGER_EPS
from .moments import Moments
from .sites import Statistics
from .sources import POPULATION_SOURCES, batch_statistics, merged_over_ranks, per_layer, per_sample, running, with_eps

# Fresh statistics over the training samples, one set per layer.
RECALIBRATION = "joint"
# torch's default, and what a layer that eps drowns is tried with.
DEFAULT_EPS = 1e-5


Built = TypeVar("Built")


@dataclass(frozen=True)
class Remedy:
    """A way to undo a cause.

    Attributes:
        label: What the model is normalized by, in a few words.
        advice: What to do now, and in training.
        statistics: The statistics to prove it by; None: they cannot be had for this model.
        repair: How a model keeps these statistics; None: as for `statistics`.
        buffers: Names and values of the buffers to prove it by, where it changes no statistics; empty: it does not
            apply.
        simpler: A remedy that this one contains: it is credited with what it adds.
        is_optional: Whether nothing takes its place where `statistics` is None, rather than `simpler`.
        transductive: Whether it reads the (unlabelled) evaluation samples; reported apart.
        undoes_mode: Whether it changes the mode that the model was passed in, and no statistics.
        is_guess: Whether it sets a value that nothing in the model suggests: it must recover nearly the whole gap.
    """

    label: str
    advice: Advice
    statistics: Callable[[Evidence], Statistics | None]
    repair: Callable[[Evidence], Repair | None]
    simpler: str | None = None
    is_optional: bool = False
    transductive: bool = False
    undoes_mode: bool = False
    is_guess: bool = False
    buffers: Callable[[Evidence], Mapping[str, Tensor]] | None = None


def _per_call(evidence: Evidence) -> Statistics | None:
    if max(evidence.calls.values(), default=1) <= 1:
        return None
    return POPULATION_SOURCES["per_call"](evidence.train.population)


def _masked(evidence: Evidence) -> Statistics | None:
    return POPULATION_SOURCES["per_call"](evidence.masked) if evidence.masked else None


def _drowned(evidence: Evidence) -> dict[str, float]:
    """Return the layers whose eps drowns their variances, and torch's default."""
    layers = evidence.layers.items()
    names = [name for name, one in layers if one.drowned_share >= EPS_SHARE and one.eps > DEFAULT_EPS]
    return dict.fromkeys(names, DEFAULT_EPS)


def _thin(evidence: Evidence) -> dict[str, float]:
    """Return the layers whose output a larger eps would change, and that eps."""
    return {name: LARGER_EPS for name, layer in evidence.layers.items() if layer.is_thin}


def _by_eps(choose: Callable[[Evidence], dict[str, float]]) -> dict[str, Any]:
    """Return both functions of a remedy that sets eps."""

    def statistics(evidence: Evidence) -> Statistics | None:
        eps = choose(evidence)
        return with_eps(evidence.layers, eps) if eps else None

    def repair(evidence: Evidence) -> Repair | None:
        eps = choose(evidence)
        return Repair(Form(eps=eps)) if eps else None

    return {"statistics": statistics, "repair": repair}


def _ranks(evidence: Evidence) -> dict[str, Moments] | None:
    return merged_over_ranks(evidence.layers, evidence.history.ranks)


def _target(evidence: Evidence) -> Statistics | None:
    return POPULATION_SOURCES["per_call"](evidence.held_out.population) if evidence.held_out else None


def _by_sample(evidence: Evidence) -> list[str]:
    """Return the instance norms that keep running statistics."""
    return [name for name, layer in evidence.layers.items() if layer.per_sample]


def _own(evidence: Evidence) -> Statistics | None:
    by_sample = _by_sample(evidence)
    return per_sample(evidence.layers, by_sample) if by_sample else None


def _has_single_samples(evidence: Evidence) -> bool:
    """Return whether batches hold one sample: the batch's statistics are then the sample's own."""
    return evidence.size == 1 and not evidence.incomparable and bool(evidence.train.population)


REMEDIES: dict[str, Remedy] = {
    "eval": Remedy(
        "running",
        Advice("call model.eval() before evaluating, and model.train() after it"),
        lambda evidence: running(evidence.layers),
        lambda evidence: Repair(),
        undoes_mode=True,
    ),
    RECALIBRATION: Remedy(
        "one set per layer",
        Advice(RECOMPUTE, "let the learning rate fall at the end of training"),
        lambda evidence: POPULATION_SOURCES["joint"](evidence.train.population),
        lambda evidence: Repair.joint(evidence.train.population),
    ),
    "settled": Remedy(
        "settled buffers",
        Advice(
            "put a few batches through the model in training mode, without gradients and with its batch norms in eval "
            "mode",
            "copy buffers that follow the weights to an average of weights, instead of averaging them",
        ),
        lambda evidence: None,
        lambda evidence: Repair(buffers=evidence.settled) if evidence.settled else None,
        buffers=lambda evidence: evidence.settled,
    ),
    "eps": Remedy(
        "eps 1e-5",
        Advice("set bn.eps to that of training, or to 1e-5", "a smaller eps, or fewer dead channels"),
        **_by_eps(_drowned),
    ),
    "own": Remedy(
        "of each sample itself",
        Advice(
            "set track_running_stats=False on the instance norms and delete their running_mean and running_var",
            "build instance norms without running statistics: evaluation then uses each sample's own, as training does",
        ),
        _own,
        lambda evidence: Repair(Form(own=_by_sample(evidence))) if _by_sample(evidence) else None,
    ),
    "each_sample": Remedy(
        "of each sample itself",
        Advice(
            "normalize each sample by its own statistics: nn.InstanceNorm2d with the batch norm's weight and bias "
            "(Diagnosis.repaired)",
            "use nn.InstanceNorm2d, or a norm of single samples (GroupNorm), where batches hold one sample",
        ),
        lambda evidence: batch_statistics if _has_single_samples(evidence) else None,
        lambda evidence: Repair(Form(own=list(evidence.train.layers()))) if _has_single_samples(evidence) else None,
        simpler=RECALIBRATION,
        is_optional=True,
    ),
    "larger_eps": Remedy(
        "eps 1e-3",
        Advice("set bn.eps = 1e-3, with which the network was trained", "use one eps in training and evaluation"),
        **_by_eps(_thin),
        is_guess=True,
    ),
    "ranks": Remedy(
        "ranks merged",
        Advice(
            "merge the ranks' statistics",
            "merge the ranks' statistics before saving, or normalize over all ranks (SyncBatchNorm)",
        ),
        lambda evidence: None if (table := _ranks(evidence)) is None else per_layer(table),
        lambda evidence: None if (table := _ranks(evidence)) is None else Repair.of_layers(table),
    ),
    "per_call": Remedy(
        "one set per call",
        Advice(
            "keep one set of running statistics per call, recomputed over the training samples",
            "use a batch norm of its own for each call, or concatenate the inputs along the batch and make one call, "
            "without rows that are empty",
        ),
        _per_call,
        lambda evidence: Repair.per_call(evidence.train.population),
        simpler="joint",
    ),
    "masked": Remedy(
        "without absent rows",
        Advice(
            "recompute the running statistics over the rows that are not padding",
            "leave padding and absent rows out of the statistics (a masked batch norm)",
        ),
        _masked,
        lambda evidence: Repair.per_call(evidence.masked, masked=True) if evidence.masked else None,
        simpler="per_call",
    ),
    "target": Remedy(
        "of unlabelled evaluation samples",
        Advice(
            "recompute the statistics on unlabelled samples of the target (transductive: report it apart)",
            "normalize the input as the evaluation samples need it, by view, subject or device",
        ),
        _target,
        lambda evidence: Repair.per_call(evidence.held_out.population) if evidence.held_out else None,
        transductive=True,
    ),
}


def buildable(name: str, build: Callable[[str], Built | None]) -> tuple[str, Built] | None:
    """Return the first of a remedy and those that it contains that can be built, and what was built.

    Args:
        name: Name of the remedy in REMEDIES.
        build: Name of a remedy -> what it is built into; None where it cannot be.
    """
    tried: str | None = name
    while tried is not None:
        if (built := build(tried)) is not None:
            return tried, built
        tried = REMEDIES[tried].simpler
    return None


def acting(name: str, evidence: Evidence) -> str | None:
    """Return the remedy that has the effect of this one on a model: itself, or a simpler one; None: it has none."""

    def applies(name: str) -> Any:
        remedy = REMEDIES[name]
        return remedy.buffers(evidence) or None if remedy.buffers else remedy.statistics(evidence)

    if REMEDIES[name].is_optional:
        return name if applies(name) is not None else None
    found = buildable(name, applies)
    return found and found[0]

"""REMEDIES: name -> what it does, in words, and the statistics it evaluates with. Nothing is retrained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.doctor.evidence import Evidence
from pipeline.evaluate import Statistics, joint, per_call


@dataclass(frozen=True)
class Remedy:
    """How to undo a cause: `advice` for training, `statistics` to prove it on the trained model (None: running)."""

    advice: str
    statistics: Callable[[Evidence], Statistics | None]


REMEDIES: dict[str, Remedy] = {
    "eval": Remedy("call model.eval() before evaluating, and model.train() after it", lambda evidence: None),
    "joint": Remedy(
        "recalibrate: recompute one set of statistics a layer over the training clips (and raise norm.momentum, "
        "or train longer)",
        lambda evidence: joint(evidence.population),
    ),
    "per_call": Remedy(
        "keep one set of statistics a call site (norm.persons per_person), or make one call over the bodies that "
        "are there (norm.persons masked) or over all (fold)",
        lambda evidence: per_call(evidence.population),
    ),
    "masked": Remedy(
        "leave absent bodies out of the statistics (norm.persons masked)",
        lambda evidence: per_call(evidence.real or evidence.population),
    ),
}

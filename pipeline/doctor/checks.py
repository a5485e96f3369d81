"""CHECKS: name -> pure function of the evidence that says what it sees and which remedy would prove it, or None.

A finding is a suspicion. It becomes a cause only when its remedy, tried on the same clips, recovers accuracy.
To add a check: write it here, name it in CHECKS, and name its remedy in `remedies.REMEDIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.doctor.evidence import Evidence
from pipeline.evaluate import Moments, union

# Medians over channels beyond which two sets of statistics are not the same distribution
# (reference measurements: reused layers .76 to 1.04 and 2.0 to 2.2; one call below .1).
SHIFT = 0.25
RATIO = 2.0


@dataclass(frozen=True)
class Finding:
    """What a check saw, in plain words, and the remedy that would prove it."""

    check: str
    evidence: str
    remedy: str


def mode(evidence: Evidence) -> Finding | None:
    """Evaluation in training mode, or an evaluation that changes buffers."""
    if evidence.changed_buffers:
        return Finding("mode", f"an evaluation pass changed {_some(evidence.changed_buffers)}", "eval")
    if evidence.training_modules:
        return Finding("mode", f"handed over in training mode: {_some(evidence.training_modules)}", "eval")
    return None


def buffers(evidence: Evidence) -> Finding | None:
    """Running statistics that are missing, not finite, or were never trained."""
    bad = []
    for name, layer in evidence.layers.items():
        mean, variance = layer.running_mean_C, layer.running_variance_C
        if mean is None or variance is None:
            continue  # no running statistics by choice: evaluation uses the batch's
        untouched = bool((mean == 0).all() and (variance == 1).all())
        finite = bool(torch.isfinite(mean).all() and torch.isfinite(variance).all())
        if untouched or not finite:
            bad.append(f"{name} ({'initial values' if finite else 'not finite'}, {layer.updates} updates)")
    return Finding("buffers", f"running statistics unusable in {_some(bad)}", "joint") if bad else None


def reuse(evidence: Evidence) -> Finding | None:
    """One layer called several times a forward pass, on different distributions."""
    reused = {name: calls for name, calls in evidence.calls.items() if calls > 1}
    apart = {}
    for name, calls in reused.items():
        sites = [evidence.population[name, call] for call in range(calls) if (name, call) in evidence.population]
        shift = max(_shift(sites[0], other) for other in sites[1:])
        ratio = max(_ratio(sites[0], other) for other in sites[1:])
        if shift > SHIFT or ratio > RATIO:
            apart[name] = (shift, ratio)
    if not apart:
        return None
    name, (shift, ratio) = max(apart.items(), key=lambda item: item[1][0])
    absent = _absent(evidence, name)
    return Finding(
        "reuse",
        f"{_some(list(apart))} called {max(reused[n] for n in apart)} times in one forward pass, on different "
        f"distributions ({name}: means {shift:.2f} standard deviations apart, variance ratio {_shown(ratio)}{absent}); "
        "training normalises each call by its own statistics, evaluation uses one mixture that fits neither",
        "per_call",
    )


def stale(evidence: Evidence) -> Finding | None:
    """Running statistics that lag behind the population the weights now see."""
    worst, where = 0.0, ""
    for name, layer in evidence.layers.items():
        if layer.running_mean_C is None or layer.running_variance_C is None:
            continue
        running = Moments(layer.running_mean_C.double(), layer.running_variance_C.double(), 1.0)
        drift = max(_shift(union(evidence.population)[name], running), 0.0)
        ratio = _ratio(union(evidence.population)[name], running)
        if (drift > SHIFT or ratio > RATIO) and max(drift, ratio) > worst:
            momentum = layer.momentum
            window = f"momentum {momentum}: about {1 / momentum:.0f} updates" if momentum else "a cumulative average"
            worst = max(drift, ratio)
            where = (
                f"{name}: running mean {drift:.2f} standard deviations from the population's, variance ratio "
                f"{_shown(ratio)}; its memory is {window} of {layer.updates}"
            )
    return Finding("stale", where, "joint") if where else None


CHECKS: dict[str, Callable[[Evidence], Finding | None]] = {
    "mode": mode,
    "buffers": buffers,
    "stale": stale,
    "reuse": reuse,
}


def _shift(a: Moments, b: Moments) -> float:
    """Median over channels of |mean a - mean b| in pooled standard deviations."""
    spread = ((a.variance_C + b.variance_C.to(a.variance_C)) / 2).clamp(min=1e-12).sqrt()
    return ((a.mean_C - b.mean_C.to(a.mean_C)).abs() / spread).median().item()


def _ratio(a: Moments, b: Moments) -> float:
    """Median over channels of the ratio of variances, larger over smaller."""
    logs = (a.variance_C.clamp(min=1e-12).log() - b.variance_C.to(a.variance_C).clamp(min=1e-12).log()).abs()
    return logs.median().exp().clamp(max=1e6).item()


def _shown(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 1000 else "over 1000"


def _absent(evidence: Evidence, name: str) -> str:
    """Share of each call's rows that belong to absent bodies, where it is known."""
    shares = []
    for call in range(evidence.calls[name]):
        everything, real = evidence.population.get((name, call)), evidence.real.get((name, call))
        if everything is None or real is None or not everything.count:
            return ""
        shares.append(f"{100 * (1 - real.count / everything.count):.0f} %")
    return f"; rows of absent bodies by call: {', '.join(shares)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

"""From evidence through checks and remedies to a verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.doctor.checks import CHECKS, Finding
from pipeline.doctor.evidence import Correct, Evidence, Forward, gather, score
from pipeline.doctor.remedies import REMEDIES
from pipeline.evaluate import Rows, gaps

# Below this share of the gap, what is left is called unexplained.
EXPLAINED = 0.8


@dataclass(frozen=True)
class Cause:
    """A cause whose remedy recovered accuracy. Accuracies are fractions."""

    check: str
    recovered: float
    """Share of the normalization gap that the remedy alone recovers on the training clips."""
    evidence: str
    remedy: str
    before: float
    """Accuracy on the evaluation clips (training clips when there are none), running statistics."""
    after: float
    """The same with the remedy."""


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's answer; `as_dict` is doctor.json."""

    verdict: str
    accuracies: dict[str, float]
    gap: dict[str, float]
    threshold: float
    causes: list[Cause]
    unexplained: float
    """Share of the normalization gap that no cause recovers; 0 when there is no gap."""
    recalibration: dict[str, dict[str, float]]
    """Accuracy A (training clips) and C (evaluation clips) after each remedy, nothing retrained."""
    calls: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "causes": [vars(cause) for cause in self.causes]}


def first_is_right(logits: Tensor, batch: Any) -> Tensor:
    """Whether the first choice is right; the labels are the batch's last element (N,)."""
    right: Tensor = logits.argmax(1) == batch[-1]
    return right


def apply_first(model: nn.Module, batch: Any) -> Tensor:
    """The model on the batch's first element."""
    logits: Tensor = model(batch[0])
    return logits


def diagnose(
    model: nn.Module,
    train_batches: Iterable[Any],
    eval_batches: Iterable[Any] | None = None,
    *,
    forward: Forward = apply_first,
    correct: Correct = first_is_right,
    rows: Rows | None = None,
) -> Diagnosis:
    """Say why a model's batch norms evaluate badly.

    Batches are iterated several times (lists, datasets: not generators), shuffled, of the training batch size.
    `forward(model, batch)` gives logits, `correct(logits, batch)` whether each sample is right, and `rows(batch, x,
    call)` which rows of a layer's input hold something real. The model and its buffers are not changed.
    """
    patient, evidence = gather(model, train_batches, eval_batches, forward, correct, rows)
    recalibration: dict[str, dict[str, float]] = {}
    if evidence.layers:
        for name, remedy in REMEDIES.items():
            source = remedy.statistics(evidence)
            if source is None:  # running statistics: measured already
                recalibration[name] = {k: evidence.accuracy(k) for k in "AC" if k in evidence.correct}
                continue
            after = {"A": score(patient, train_batches, forward, correct, source).double().mean().item()}
            if eval_batches is not None:
                after["C"] = score(patient, eval_batches, forward, correct, source).double().mean().item()
            recalibration[name] = after
    findings = [finding for check in CHECKS.values() if (finding := check(evidence))]
    causes = _prove(evidence, findings, recalibration)
    best = max((recalibration[f.remedy]["A"] for f in findings if f.check in {c.check for c in causes}), default=None)
    significant = evidence.gap > evidence.threshold
    unexplained = 0.0
    if significant:
        unexplained = 1.0 if best is None else max(0.0, 1 - (best - evidence.accuracy("A")) / evidence.gap)
    accuracies = {name: evidence.accuracy(name) for name in evidence.correct}
    mode = next((f for f in findings if f.check == "mode"), None)
    return Diagnosis(
        verdict=_verdict(evidence, causes, unexplained, mode),
        accuracies=accuracies,
        gap=gaps(accuracies),
        threshold=evidence.threshold,
        causes=causes,
        unexplained=unexplained,
        recalibration=recalibration,
        calls=evidence.calls,
    )


def _prove(evidence: Evidence, findings: list[Finding], recalibration: dict[str, dict[str, float]]) -> list[Cause]:
    """Findings whose remedy recovers more than what a simpler remedy already did, largest share first.

    Separate statistics a call can only do what shared, fresh ones do and more; so reuse is blamed for what it adds
    beyond them, and where they are enough, the statistics are stale and reuse is harmless.
    """
    if evidence.gap <= evidence.threshold:
        return []
    proven: dict[str, Cause] = {}
    start = evidence.accuracy("A")
    for finding in findings:
        after = recalibration.get(finding.remedy, {"A": start})
        simpler = recalibration["joint"]["A"] if finding.remedy == "per_call" else start
        if after["A"] - simpler <= evidence.threshold:
            continue
        judged = "C" if "C" in after else "A"
        proven[finding.check] = Cause(
            finding.check,
            (after["A"] - start) / evidence.gap,
            finding.evidence,
            REMEDIES[finding.remedy].advice,
            evidence.accuracy(judged),
            after[judged],
        )
    if "reuse" in proven and proven["reuse"].recovered >= EXPLAINED:
        # Refreshing the shared set only mixes the calls in another proportion: no second cause.
        proven.pop("stale", None)
    if "buffers" in proven:
        # Statistics that were never trained are of course far from the population too.
        proven.pop("stale", None)
    return sorted(proven.values(), key=lambda cause: -cause.recovered)


def _verdict(evidence: Evidence, causes: list[Cause], unexplained: float, mode: Finding | None) -> str:
    gap, threshold = 100 * evidence.gap, 100 * evidence.threshold
    warning = f" Mind the mode: {mode.evidence}." if mode else ""
    if not evidence.layers:
        return "The model has no batch norm: its accuracy does not depend on statistics of batches." + warning
    if not causes and evidence.gap <= evidence.threshold:
        rest = ""
        if "D" in evidence.correct:
            loss = 100 * (evidence.accuracy("B") - evidence.accuracy("D"))
            rest = f" The {loss:.1f} points between training and evaluation clips are generalization."
        return (
            f"This is not normalization: on the same training clips, running statistics cost {gap:.1f} points "
            f"(threshold {threshold:.1f}).{rest}{warning}"
        )
    if not causes:
        return (
            f"Running statistics cost {gap:.1f} points on the training clips, and no check explains it: unexplained."
            f"{warning}"
        )
    parts = [
        f"{cause.evidence}. Undoing it recovers {cause.recovered * gap:.1f} of {gap:.1f} points on the training clips "
        f"and takes evaluation accuracy from {100 * cause.before:.1f} to {100 * cause.after:.1f} %, nothing retrained"
        for cause in causes
    ]
    left = f" {100 * unexplained:.0f} % of the gap is unexplained." if unexplained > 1 - EXPLAINED else ""
    return f"{'; '.join(parts)}.{left}{warning}"

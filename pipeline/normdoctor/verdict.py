"""Write the verdict: what the evidence supports, in plain words."""

from __future__ import annotations

from .causes import EXPLAINED, Cause, GeneralizationLoss, Suspicion
from .evidence import Evidence
from .finding import listed


def verdict(
    evidence: Evidence,
    causes: list[Cause],
    suspicions: list[Suspicion],
    rest: list[GeneralizationLoss],
    unexplained: float,
    quantized: list[str],
) -> str:
    """Return the verdict, causes first."""
    also = "".join(f" Suspicion ({s.check}): {s.evidence}." for s in suspicions)
    if not evidence.layers:
        return _without_layers(evidence, causes, quantized) + also
    if all(layer.running is None for layer in evidence.layers.values()):
        also += " No layer keeps running statistics: the model's output for a sample depends on its batch."
    gap = evidence.points(evidence.gap)
    if causes:
        left = f" {100 * unexplained:.0f} % of the gap is unexplained." if unexplained > 1 - EXPLAINED else ""
        return f"{'; '.join(_cause_sentence(cause, evidence) for cause in causes)}.{left}{also}"
    if evidence.normalization.significant:
        return f"Running statistics cost {gap} on the training samples, and no check explains it: unexplained.{also}"
    losses = "".join(f" {_loss_sentence(loss, evidence)}" for loss in rest)
    return (
        f"The statistics of normalization are not to blame: on the same training samples, running statistics cost "
        f"{gap} (threshold {evidence.points(evidence.threshold)}).{losses}{also}"
    )


def _without_layers(evidence: Evidence, causes: list[Cause], quantized: list[str]) -> str:
    if quantized:
        return (
            "The model has no batch norm of its own: its layers are quantized, and their batch norms were folded into "
            f"the weights ({listed(quantized)}). Diagnose the float network."
        )
    if causes:
        sentences = "; ".join(_cause_sentence(cause, evidence) for cause in causes)
        return f"The model has no batch norm, but a cause was found: {sentences}."
    return "The model has no batch norm: its accuracy does not depend on statistics of batches."


def _cause_sentence(cause: Cause, evidence: Evidence) -> str:
    before, after = evidence.shown(cause.before), evidence.shown(cause.after)
    if cause.is_mode:
        return f"{cause.evidence}. In eval mode the evaluation score changes from {before} to {after}"
    return (
        f"{cause.evidence}. The remedy recovers {100 * cause.recovered:.0f} % of the normalization gap of "
        f"{evidence.points(evidence.gap)} on the training samples and changes the evaluation score from {before} to "
        f"{after}, nothing retrained"
    )


def _loss_sentence(loss: GeneralizationLoss, evidence: Evidence) -> str:
    sentence = f"Generalization ({loss.check}): {loss.evidence}"
    if loss.recovered:
        sentence += (
            f"; statistics of the unlabelled evaluation samples change C from {evidence.shown(loss.before)} to "
            f"{evidence.shown(loss.after)} (transductive)"
        )
    return f"{sentence}."

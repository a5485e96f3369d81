"""Write the verdict: what the evidence supports, in plain words."""

from __future__ import annotations

from .causes import EXPLAINED, Cause, GeneralizationLoss, Suspicion
from .evidence import Evidence, Pass
from .finding import listed
from .intervals import MIN_DIFFERENCE, score_scale

# What a sentence about a loss is about, where that is not generalization; it then opens the verdict.
HEADINGS = {"inputs": "Data", "random": "Evaluation"}
# Losses in which normalization has no part.
UNRELATED = ("overfit",)


def verdict(
    evidence: Evidence,
    causes: list[Cause],
    suspicions: list[Suspicion],
    rest: list[GeneralizationLoss],
    unexplained: float,
    quantized: list[str],
) -> str:
    """Return the verdict, causes first, and what to know of the metric last."""
    note = f" Note: {evidence.metric_note}." if evidence.metric_note else ""
    return _findings(evidence, causes, suspicions, rest, unexplained, quantized) + note


def _findings(
    evidence: Evidence,
    causes: list[Cause],
    suspicions: list[Suspicion],
    rest: list[GeneralizationLoss],
    unexplained: float,
    quantized: list[str],
) -> str:
    failures = "".join(f"Failure ({s.check}): {s.evidence}. " for s in suspicions if s.fails)
    suspicions = [s for s in suspicions if not s.fails]
    also = "".join(f" Suspicion ({s.check}): {s.evidence}." for s in suspicions)
    if evidence.nonfinite_outputs:
        share = f"{100 * evidence.nonfinite_outputs:.0f} % of the training samples have outputs or scores that"
        also = f" {share} are not finite.{also}"
    if not evidence.layers:
        return failures + _without_layers(evidence, causes, quantized) + also
    if all(layer.running is None for layer in evidence.layers.values()):
        also += " No layer keeps running statistics: the model's output for a sample depends on its batch"
        also += f"{_in_own(evidence)}."
    if causes:
        left = f" {100 * unexplained:.0f} % of the gap is unexplained." if unexplained > 1 - EXPLAINED else ""
        return f"{failures}{'; '.join(_cause_sentence(cause, evidence) for cause in causes)}.{left}{also}"
    first = failures + "".join(f"{_loss_sentence(loss, evidence)} " for loss in rest if loss.check in HEADINGS)
    losses = "".join(f" {_loss_sentence(loss, evidence)}" for loss in rest if loss.check not in HEADINGS)
    if evidence.has_gap:
        return f"{first}{_gap_sentence(evidence, suspicions)}{losses}{also}"
    scores, threshold = _scores(evidence, "A", "B"), evidence.points(evidence.threshold)
    no_gap = f"the same training samples score {scores} (a gap counts from {threshold})."
    # Blame is denied only where nothing fires that normalization may have a part in, and the score can show it.
    if also or failures or evidence.metric_is_doubtful or any(loss.check not in UNRELATED for loss in rest):
        return f"{first}No significant normalization gap: {no_gap}{also}{losses}"
    return f"{first}The statistics of normalization are not to blame: {no_gap}{losses}"


def _gap_sentence(evidence: Evidence, suspicions: list[Suspicion]) -> str:
    """Return the cost of running statistics that no remedy is proven to recover."""
    cost = f"Running statistics cost {evidence.points(evidence.gap)}"
    names = listed([suspicion.check for suspicion in suspicions])
    found = f"suspected, not proven: {names}" if names else "no check explains it: unexplained"
    if evidence.own_batches is not None:
        shuffled = evidence.shown(evidence.mean("mixed"))
        return (
            f"{cost} in the training loader's own batches ({_scores(evidence, 'given_A', 'given_B')}); the same "
            f"samples in shuffled batches score {shuffled}: the network reads its batch; {found}."
        )
    return f"{cost} on the training samples ({_scores(evidence, 'A', 'B')}); {found}."


def _in_own(evidence: Evidence) -> str:
    """Return what a model whose output depends on the batch scores in the evaluation loader's own batches."""
    if "given_C" not in evidence.score or "C" not in evidence.score:
        return ""
    own, others = evidence.mean("given_C"), evidence.mean("C")
    if abs(own - others) < MIN_DIFFERENCE * score_scale(evidence.score["C"]):
        return ""
    return (
        f": the evaluation samples score {evidence.shown(own)} in their loader's own batches, and "
        f"{evidence.shown(others)} in batches of {evidence.size}"
    )


def _scores(evidence: Evidence, running: Pass, batch: Pass) -> str:
    """Return two scores of the same samples, and the batches in which they were measured."""
    own = {"A": f"in shuffled batches of {evidence.size}"}.get(running, "there")
    return (
        f"{evidence.shown(evidence.mean(running))} by running statistics, {evidence.shown(evidence.mean(batch))} by "
        f"batch statistics {own}"
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
    return "The model has no layer with statistics of batches: no normalization gap can arise."


def _cause_sentence(cause: Cause, evidence: Evidence) -> str:
    before, after = evidence.shown(cause.before), evidence.shown(cause.after)
    if cause.is_mode:
        where = " in the loader's own batches" if "found_C" in evidence.score else ""
        return f"{cause.evidence}. In eval mode the evaluation score{where} changes from {before} to {after}"
    if not evidence.has_gap:
        return f"{cause.evidence}. The remedy changes the evaluation score from {before} to {after}, nothing retrained"
    gap = f"the normalization gap of {evidence.points(evidence.gap)}"
    if evidence.nonfinite_outputs == 1:  # the gap to a score that does not exist is a convention
        gap, before = "the score", "none that is finite"
    return (
        f"{cause.evidence}. The remedy recovers {100 * cause.recovered:.0f} % of {gap} on the training samples and "
        f"changes the evaluation score from {before} to {after}, nothing retrained"
    )


def _loss_sentence(loss: GeneralizationLoss, evidence: Evidence) -> str:
    sentence = f"{HEADINGS.get(loss.check, 'Generalization')} ({loss.check}): {loss.evidence}"
    if loss.recovered:
        sentence += (
            f"; statistics of the unlabelled evaluation samples change C from {evidence.shown(loss.before)} to "
            f"{evidence.shown(loss.after)} (transductive)"
        )
    return f"{sentence}."

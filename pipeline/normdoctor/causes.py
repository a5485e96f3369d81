"""Prove: which findings are causes, by what their remedies recover on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch

from . import layer_checks
from .bench import Bench
from .checks import CHECKS, REST, fired
from .evidence import Evidence, Pass, Scores
from .finding import Advice, Fired
from .intervals import MIN_DIFFERENCE, NO_DIFFERENCE, Difference, score_scale
from .remedies import RECALIBRATION, REMEDIES, acting
from .settling import buffers_as
from .sources import running

# Below this share of the gap, what is left is called unexplained; a check that explains this share of what a check it
# supersedes does takes its place; fresh statistics that recover it name the cause where no check does.
EXPLAINED = 0.8
# Least gain of a remedy without a gap, or within the noise of each part, as a share of a score outside [0, 1]: running
# statistics of small batches are noisy.
NOTICED_SHARE = 0.1
# A proof fails where the evaluation samples exclude that they gain this share of what the training samples do.
CONFIRMED = 0.5
# Checks of what the size of a batch does to its statistics, which fresh ones change too.
BATCH_SIZE = ("small",)
# Scores by running statistics.
FOUND: tuple[Literal["A"], Literal["C"]] = ("A", "C")

Tried = dict[str, Scores]
"""Remedy -> scores A and C under its statistics; C is missing where A does not rise, A for a transductive remedy."""


@dataclass(frozen=True)
class Cause:
    """A finding whose remedy recovered score. Scores are fractions where the metric is accuracy.

    Example:
        >>> import normdoctor
        >>> cause = normdoctor.Cause("stale", 1.0, 1.0, "they lag", "recompute them", 0.7, 0.9, [0.15, 0.25])
        >>> f"{cause.check}: {cause.before} -> {cause.after}"
        'stale: 0.7 -> 0.9'
    """

    check: str
    recovered: float
    """Share of the normalization gap that the remedy alone recovers on the training samples."""
    cumulative: float
    """The same for this cause and those before it together."""
    evidence: str
    remedy: str
    """`now` and `next_training` in one sentence."""
    before: float
    """Score of the evaluation samples (training samples when there are none), as evaluated."""
    after: float
    """The same with the remedy."""
    interval: list[float]
    """95 % interval of after - before (paired bootstrap)."""
    now: str = ""
    """Advice for the trained model, nothing retrained."""
    next_training: str = ""
    """Advice for the next training."""

    @property
    def is_mode(self) -> bool:
        """True if the cause is the mode that the model was passed in, rather than its statistics."""
        return undoes_mode(CHECKS[self.check].remedy)


@dataclass(frozen=True)
class Suspicion:
    """A finding that no remedy proves: only new training can, or it costs nothing measurable yet.

    Example:
        >>> import normdoctor
        >>> normdoctor.Suspicion("small", "batches of 2", "larger batches").check
        'small'
    """

    check: str
    evidence: str
    remedy: str
    now: str = ""
    next_training: str = ""
    fails: bool = False
    """True if training or evaluation ends with an error: then it comes before all causes."""


@dataclass(frozen=True)
class GeneralizationLoss:
    """A loss on evaluation samples where normalization is not to blame: a shift, or overfitting.

    Fields as in `Cause`, but `recovered` is a share of D - C (0 where no remedy is tried).

    Example:
        >>> import normdoctor
        >>> normdoctor.GeneralizationLoss("overfit", 0.0, "9 points", "more data", 0.8, 0.8, [0.0, 0.0]).check
        'overfit'
    """

    check: str
    recovered: float
    evidence: str
    remedy: str
    before: float
    after: float
    interval: list[float]
    now: str = ""
    next_training: str = ""


Entry = TypeVar("Entry", Cause, Suspicion, GeneralizationLoss)


def try_remedies(bench: Bench, evidence: Evidence) -> Tried:
    """Score the samples under each remedy: A, and C where A rises or a recalibration; C alone if transductive.

    A remedy that a simpler one acts for (`acting`) has its scores.
    """
    as_evaluated: Scores = {name: evidence.score[name] for name in ("A", "C") if name in evidence.score}
    worst = evidence.worst
    tried: Tried = {}
    for name, remedy in REMEDIES.items():
        acts = acting(name, evidence) if evidence.layers or remedy.buffers else None
        if acts is None:
            continue
        if acts != name:
            tried[name] = tried[acts]
            continue
        if remedy.buffers:
            running_statistics = running(evidence.layers) if evidence.layers else None
            with buffers_as(bench.model, remedy.buffers(evidence)):
                both = bench.both(running_statistics)
            tried[name] = {key: one.score_N.nan_to_num(worst) for key, one in both.items()}
            continue
        if remedy.undoes_mode:
            tried[name] = as_evaluated
            continue
        source = remedy.statistics(evidence)
        assert source is not None
        tried[name] = {} if remedy.transductive else {"A": bench.on_train(source).score_N.nan_to_num(worst)}
        always = remedy.transductive or name == RECALIBRATION
        helps = always or evidence.paired(evidence.score["A"], tried[name]["A"]).significant
        if helps and (on_eval := bench.on_eval(source)) is not None:
            tried[name]["C"] = on_eval.score_N.nan_to_num(worst)
    return tried


def prove(evidence: Evidence, found: list[Fired], tried: Tried) -> list[Cause]:
    """Return the findings whose remedy recovers more than a simpler one does, largest share first.

    The remedy must move the training samples, and the evaluation samples where there are any.
    Statistics per call can do what fresh, shared ones do and more; so reuse is the cause of what it adds beyond them.
    Where shared ones are enough, the statistics are stale and the reuse is harmless.
    """
    proven: dict[str, Cause] = {}
    used: set[str] = set()
    for one in found:
        if undoes_mode(one.remedy):
            if (cause := _mode_cause(evidence, one)) is not None:
                proven[one.name] = cause
            continue
        # A remedy that a more specific check has used proves nothing more.
        if one.remedy is None or one.remedy not in tried or one.remedy in used:
            continue
        if cures(evidence, one.remedy, tried):
            used.add(one.remedy)
            proven[one.name] = _cause(evidence, one, tried[one.remedy])
    ranked = sorted(_unsuperseded(proven), key=lambda cause: (not cause.is_mode, -cause.recovered))
    return [_cumulated(ranked[: i + 1]) for i in range(len(ranked))]


def cures(evidence: Evidence, remedy: str, tried: Tried) -> bool:
    """Return whether a remedy raises A and C; a recalibration may raise C alone, where A does not fall."""
    if REMEDIES[remedy].is_guess and _gain(evidence, remedy, tried, "A").mean < EXPLAINED * evidence.gap:
        return False
    if helps(evidence, remedy, tried):
        return confirmed(evidence, remedy, tried)
    return remedy == RECALIBRATION and _cures_evaluation(evidence, tried)


def _cures_evaluation(evidence: Evidence, tried: Tried) -> bool:
    """Return whether a recalibration brings C near D, where A has no room to rise."""
    if "C" not in tried[RECALIBRATION] or not evidence.difference("C", "D").significant:
        return False
    gain = _gain(evidence, RECALIBRATION, tried, "C")
    near = gain.mean >= EXPLAINED * evidence.difference("C", "D").mean
    return gain.significant and near and _gain(evidence, RECALIBRATION, tried, "A").mean >= 0


def helps(evidence: Evidence, remedy: str, tried: Tried) -> bool:
    """Return whether a remedy raises A by more than the remedy that it contains, if there is one.

    A recalibration also helps where A and C rise alike, by two points or more (a tenth of a score outside [0, 1]), and
    all samples together leave no doubt.
    """
    if _gain(evidence, remedy, tried, "A").significant:
        return True
    return remedy == RECALIBRATION and _helps_together(evidence, tried)


def _helps_together(evidence: Evidence, tried: Tried) -> bool:
    before, after = evidence.score, tried[RECALIBRATION]
    if "C" not in after:
        return False
    largest = 0.0 if evidence.is_share else max(abs(evidence.mean(name)) for name in FOUND)
    least = max(MIN_DIFFERENCE * score_scale(before["A"]), NOTICED_SHARE * largest)
    each = [(after[name].double() - before[name].double()).mean().item() for name in FOUND]
    before_N, after_N = (torch.cat([scores[name] for name in FOUND]) for scores in (before, after))
    return min(each) >= max(least, CONFIRMED * max(each)) and evidence.paired(before_N, after_N).significant


def confirmed(evidence: Evidence, remedy: str, tried: Tried) -> bool:
    """Return whether the evaluation samples, where there are any, agree with a gain of the training samples.

    They agree if their own gain counts, or if they are too few to exclude CONFIRMED of the training samples' gain.
    """
    if "C" not in tried[remedy]:
        return True
    on_eval = _gain(evidence, remedy, tried, "C")
    return on_eval.significant or on_eval.high >= CONFIRMED * _gain(evidence, remedy, tried, "A").mean


def _gain(evidence: Evidence, remedy: str, tried: Tried, name: Literal["A", "C"]) -> Difference:
    simpler = REMEDIES[remedy].simpler
    without = tried[simpler].get(name, evidence.score[name]) if simpler else evidence.score[name]
    return evidence.paired(without, tried[remedy][name])


def unnamed(evidence: Evidence, found: list[Fired], tried: Tried) -> list[Fired]:
    """Return the finding `foreign` where a recalibration cures what no check explains.

    It is `stale` if momentum is too high, and `padding` if the share of padding changes from batch to batch.

    It cures where it recovers EXPLAINED of the gap, raises C significantly without a fall of A, or raises both where
    there is no gap: statistics of small batches are too noisy to show one.
    """
    scores = tried.get(RECALIBRATION, {})
    fast = layer_checks.too_fast(evidence)
    explained = any(one.remedy == RECALIBRATION or (one.name in BATCH_SIZE and not fast) for one in found)
    if explained or not scores:
        return []
    gain = evidence.paired(evidence.score["A"], scores["A"])
    if evidence.has_gap:
        recovers = gain.significant and gain.mean >= EXPLAINED * evidence.gap
    else:
        on_eval = "C" not in scores or evidence.paired(evidence.score["C"], scores["C"]).significant
        large = evidence.is_share or gain.mean >= NOTICED_SHARE * abs(evidence.mean("A"))
        recovers = ((gain.significant and on_eval) or _helps_together(evidence, tried)) and large
    if not recovers and not _cures_evaluation(evidence, tried):
        return []
    padding = next((one for one in found if one.name == "padding" and one.is_fact), None)
    if padding:  # running statistics follow the padding of the last batches
        return [replace(padding, finding=replace(padding.finding, remedy=RECALIBRATION))]
    if fast:
        return [Fired("stale", CHECKS["stale"], layer_checks.lagging(evidence))]
    return [Fired("foreign", CHECKS["foreign"], layer_checks.foreign_by_effect(evidence))]


def suspicions(found: list[Fired], causes: list[Cause], evidence: Evidence, tried: Tried) -> list[Suspicion]:
    """Return the findings that are not causes: failures first, facts, and those whose proof fails on eval samples."""
    known = {cause.check for cause in causes}
    result = []
    for one in found:
        failed = "" if one.remedy is None else _failed_proof(evidence, one.remedy, tried)
        if one.name not in known and (one.is_fact or one.finding.fails or (failed and not causes)):
            result.append(_suspicion(one, failed, _hurts(evidence, one.remedy, tried)))
    return sorted(result, key=lambda suspicion: not suspicion.fails)


def _suspicion(one: Fired, failed: str, hurts: bool) -> Suspicion:
    about = advice(one)
    if hurts:
        about = Advice(next_training=about.next_training)
    return Suspicion(one.name, one.evidence + failed, about.text, about.now, about.next_training, one.finding.fails)


def _hurts(evidence: Evidence, remedy: str | None, tried: Tried) -> bool:
    """Return whether a remedy was tried and lowers A: then it is not advised for now."""
    scores = tried.get(remedy or "", {})
    return "A" in scores and scores["A"].double().mean().item() < evidence.mean("A")


def _failed_proof(evidence: Evidence, remedy: str, tried: Tried) -> str:
    """Return how a remedy fails on the evaluation samples that helps on the training samples; empty if it does not."""
    if undoes_mode(remedy) or "A" not in tried.get(remedy, {}):
        return ""
    if not helps(evidence, remedy, tried) or confirmed(evidence, remedy, tried):
        return ""
    gain = evidence.paired(evidence.score["A"], tried[remedy]["A"])
    after = evidence.shown(tried[remedy]["C"].double().mean().item())
    return (
        f" (its remedy gains {evidence.points(gain.mean)} on the training samples, but changes the evaluation score "
        f"only from {evidence.shown(evidence.mean('C'))} to {after}: no proof)"
    )


def generalization_losses(evidence: Evidence, tried: Tried) -> list[GeneralizationLoss]:
    """Return the findings of REST, for a model without causes.

    A finding with a remedy counts only where the remedy helps and the normalization gap is not significant.
    """
    losses = []
    for one in fired(REST, evidence):
        if one.remedy is None:
            losses.append(_loss(evidence, one, 0.0, NO_DIFFERENCE))
        elif one.remedy in tried and not evidence.has_gap:
            scores = tried[one.remedy]["C"]
            gain = evidence.paired(evidence.score["C"], scores)
            whole = evidence.paired(evidence.score["C"], evidence.score["D"])
            if gain.significant:
                share = min(1.0, gain.mean / max(whole.mean, gain.mean))
                losses.append(_loss(evidence, one, share, gain, scores.double().mean().item()))
    return losses


def unexplained_share(evidence: Evidence, causes: list[Cause], found: list[Fired], tried: Tried) -> float:
    """Return the share of the normalization gap that the causes' remedies leave; 0 without a gap."""
    if not evidence.has_gap:
        return 0.0
    known = {cause.check for cause in causes}
    remedies = [one.remedy for one in found if one.name in known and one.remedy in tried]
    means = [tried[remedy]["A"].double().mean().item() for remedy in remedies if remedy and "A" in tried[remedy]]
    best = max(means, default=evidence.mean("A"))
    return min(1.0, max(0.0, 1 - (best - evidence.mean("A")) / evidence.gap))


def proven_remedy(causes: list[Cause], found: list[Fired]) -> str | None:
    """Return the remedy of the cause that explains most; that of the mode where it is the only cause.

    Remedies replace statistics, so they do not add up.
    """
    remedies = {one.name: one.remedy for one in found}
    names = [remedies[cause.check] for cause in causes]
    return next((name for name in names if not undoes_mode(name)), names[0] if names else None)


def undoes_mode(remedy: str | None) -> bool:
    """Return whether a remedy changes the mode that the model was passed in."""
    return remedy is not None and REMEDIES[remedy].undoes_mode


def advice(one: Fired) -> Advice:
    """Return what to do about a finding."""
    return one.finding.advice or REMEDIES[one.remedy or ""].advice


def reworded(entries: list[Entry], next_training: Mapping[str, str]) -> list[Entry]:
    """Return the entries with the advice for training of the checks that `next_training` names."""
    result = []
    for entry in entries:
        later = next_training.get(entry.check, entry.next_training)
        result.append(replace(entry, next_training=later, remedy=Advice(entry.now, later).text))
    return result


def _told(one: Fired) -> dict[str, str]:
    about = advice(one)
    return {"evidence": one.evidence, "remedy": about.text, "now": about.now, "next_training": about.next_training}


def _cause(evidence: Evidence, one: Fired, scores: Scores) -> Cause:
    gain, gap = evidence.paired(evidence.score["A"], scores["A"]).mean, evidence.gap
    if not evidence.has_gap and "C" in scores:
        gain, gap = evidence.paired(evidence.score["C"], scores["C"]).mean, evidence.difference("C", "D").mean
    share = gain / max(gap, gain, 1e-12)
    before, after = (evidence.score["C"], scores["C"]) if "C" in scores else (evidence.score["A"], scores["A"])
    means = before.double().mean().item(), after.double().mean().item()
    interval = evidence.paired(before, after).interval
    return Cause(one.name, share, share, before=means[0], after=means[1], interval=interval, **_told(one))


def _mode_cause(evidence: Evidence, one: Fired) -> Cause | None:
    """The cost of the mode that the model was evaluated in, against the same model in eval mode."""
    if "found_A" not in evidence.score:
        return None
    pairs: list[tuple[Pass, Pass, Pass]] = [("found_A", "A", "B"), ("found_C", "given_C", "given_D")]
    pairs = [names for names in pairs if set(names) <= set(evidence.score)]
    costs = [names for names in pairs if evidence.difference(names[0], names[1]).significant]
    if not costs and not evidence.stuck_modules and not evidence.changed_buffers:
        return None
    share = 0.0
    if costs:
        found, running, batch = (evidence.mean(name) for name in costs[0])
        share = (running - found) / (max(running, batch) - found)
    before, after, _ = pairs[-1]
    interval = evidence.difference(before, after).interval
    means = evidence.mean(before), evidence.mean(after)
    return Cause(one.name, share, share, before=means[0], after=means[1], interval=interval, **_told(one))


def _unsuperseded(proven: Mapping[str, Cause]) -> list[Cause]:
    """Causes without those of which another one explains as much."""
    gone = {
        other
        for name, cause in proven.items()
        for other in CHECKS[name].supersedes
        if other in proven and cause.recovered >= EXPLAINED * proven[other].recovered
    }
    return [cause for name, cause in proven.items() if name not in gone]


def _cumulated(so_far: list[Cause]) -> Cause:
    """The last cause with the share that it and those before it recover: remedies replace statistics, so the best."""
    last = so_far[-1]
    best = max((cause.recovered for cause in so_far if not cause.is_mode), default=last.recovered)
    return replace(last, cumulative=best)


def _loss(
    evidence: Evidence, one: Fired, share: float, gain: Difference, after: float | None = None
) -> GeneralizationLoss:
    before = evidence.mean("C" if "C" in evidence.score else "A")
    after = before if after is None else after
    return GeneralizationLoss(one.name, share, before=before, after=after, interval=gain.interval, **_told(one))

"""Prove: which findings are causes, by what their remedies recover on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .bench import Bench
from .checks import CHECKS, REST, fired
from .evidence import Evidence, Pass, Scores
from .finding import Fired
from .intervals import NO_DIFFERENCE, Difference, paired
from .remedies import REMEDIES

# Below this share of the gap, what is left is called unexplained; a check that explains this share of what a check it
# supersedes does takes its place.
EXPLAINED = 0.8

Tried = dict[str, Scores]
"""Remedy -> scores A and C under its statistics; C is missing where A does not rise, A for a transductive remedy."""


@dataclass(frozen=True)
class Cause:
    """A finding whose remedy recovered score. Scores are fractions where the metric is accuracy."""

    check: str
    recovered: float
    """Share of the normalization gap that the remedy alone recovers on the training samples."""
    cumulative: float
    """The same for this cause and those before it together."""
    evidence: str
    remedy: str
    before: float
    """Score of the evaluation samples (training samples when there are none), as evaluated."""
    after: float
    """The same with the remedy."""
    interval: list[float]
    """95 % interval of after - before (paired bootstrap)."""

    @property
    def is_mode(self) -> bool:
        """True if the cause is the mode that the model was passed in, rather than its statistics."""
        return undoes_mode(CHECKS[self.check].remedy)


@dataclass(frozen=True)
class Suspicion:
    """A finding that no remedy proves: only new training can, or it costs nothing measurable yet."""

    check: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class GeneralizationLoss:
    """A loss on evaluation samples where normalization is not to blame: a shift, or overfitting.

    Fields as in `Cause`, but `recovered` is a share of D - C (0 where no remedy is tried).
    """

    check: str
    recovered: float
    evidence: str
    remedy: str
    before: float
    after: float
    interval: list[float]


def try_remedies(bench: Bench, evidence: Evidence) -> Tried:
    """Score the samples under each remedy: A, and C where A rises; C alone for a transductive remedy.

    A remedy whose statistics are those of a simpler one has its scores.
    """
    if not evidence.layers:
        return {}
    as_evaluated: Scores = {name: evidence.score[name] for name in ("A", "C") if name in evidence.score}
    worst = evidence.worst
    tried: Tried = {}
    for name, remedy in REMEDIES.items():
        if remedy.undoes_mode:
            tried[name] = as_evaluated
            continue
        source = remedy.statistics(evidence)
        if source is None:
            if remedy.simpler:
                tried[name] = tried[remedy.simpler]
            continue
        tried[name] = {} if remedy.transductive else {"A": bench.on_train(source).score_N.nan_to_num(worst)}
        helps = remedy.transductive or paired(evidence.score["A"], tried[name]["A"]).significant
        if helps and (on_eval := bench.on_eval(source)) is not None:
            tried[name]["C"] = on_eval.score_N.nan_to_num(worst)
    return tried


def prove(evidence: Evidence, found: list[Fired], tried: Tried) -> list[Cause]:
    """Return the findings whose remedy recovers more than a simpler one does, largest share first.

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
        simpler = REMEDIES[one.remedy].simpler
        without = tried[simpler]["A"] if simpler else evidence.score["A"]
        if paired(without, tried[one.remedy]["A"]).significant:
            used.add(one.remedy)
            proven[one.name] = _cause(evidence, one, tried[one.remedy])
    ranked = sorted(_unsuperseded(proven), key=lambda cause: (not cause.is_mode, -cause.recovered))
    return [_cumulated(ranked[: i + 1]) for i in range(len(ranked))]


def suspicions(found: list[Fired], causes: list[Cause]) -> list[Suspicion]:
    """Return the findings that are facts without being causes."""
    known = {cause.check for cause in causes}
    return [
        Suspicion(one.name, one.evidence, advice(one)) for one in found if one.check.is_fact and one.name not in known
    ]


def generalization_losses(evidence: Evidence, tried: Tried) -> list[GeneralizationLoss]:
    """Return the findings of REST, for a model without causes.

    A finding with a remedy counts only where the remedy helps and the normalization gap is not significant.
    """
    losses = []
    for one in fired(REST, evidence):
        if one.remedy is None:
            losses.append(_loss(evidence, one, 0.0, NO_DIFFERENCE, evidence.mean("C")))
        elif one.remedy in tried and not evidence.normalization.significant:
            scores = tried[one.remedy]["C"]
            gain = paired(evidence.score["C"], scores)
            whole = paired(evidence.score["C"], evidence.score["D"])
            if gain.significant:
                share = min(1.0, gain.mean / max(whole.mean, gain.mean))
                losses.append(_loss(evidence, one, share, gain, scores.double().mean().item()))
    return losses


def unexplained_share(evidence: Evidence, causes: list[Cause], found: list[Fired], tried: Tried) -> float:
    """Return the share of the normalization gap that the causes' remedies leave; 0 without a gap."""
    if not evidence.normalization.significant:
        return 0.0
    known = {cause.check for cause in causes}
    remedies = [one.remedy for one in found if one.name in known and one.remedy in tried]
    means = [tried[remedy]["A"].double().mean().item() for remedy in remedies if remedy and "A" in tried[remedy]]
    best = max(means, default=evidence.mean("A"))
    return min(1.0, max(0.0, 1 - (best - evidence.mean("A")) / evidence.gap))


def undoes_mode(remedy: str | None) -> bool:
    """Return whether a remedy changes the mode that the model was passed in."""
    return remedy is not None and REMEDIES[remedy].undoes_mode


def advice(one: Fired) -> str:
    """Return what to do about a finding."""
    return one.finding.advice or REMEDIES[one.remedy or ""].advice


def _cause(evidence: Evidence, one: Fired, scores: Scores) -> Cause:
    gain = paired(evidence.score["A"], scores["A"]).mean
    share = gain / max(evidence.gap, gain)
    before, after = (evidence.score["C"], scores["C"]) if "C" in scores else (evidence.score["A"], scores["A"])
    means = before.double().mean().item(), after.double().mean().item()
    return Cause(one.name, share, share, one.evidence, advice(one), *means, paired(before, after).interval)


def _mode_cause(evidence: Evidence, one: Fired) -> Cause | None:
    """The cost of the mode that the model was evaluated in, against the same model in eval mode."""
    if "found_A" not in evidence.score:
        return None
    gain = evidence.difference("found_A", "A")
    if not gain.significant and not evidence.stuck_modules and not evidence.changed_buffers:
        return None
    whole = max(evidence.mean("A"), evidence.mean("B")) - evidence.mean("found_A")
    share = gain.mean / whole if gain.significant and whole > 0 else 0.0
    before: Pass
    after: Pass
    before, after = ("found_C", "given_C") if "found_C" in evidence.score else ("found_A", "A")
    means = evidence.mean(before), evidence.mean(after)
    interval = evidence.difference(before, after).interval
    return Cause(one.name, share, share, one.evidence, advice(one), *means, interval)


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


def _loss(evidence: Evidence, one: Fired, share: float, gain: Difference, after: float) -> GeneralizationLoss:
    before = evidence.mean("C")
    return GeneralizationLoss(one.name, share, one.evidence, advice(one), before, after, gain.interval)

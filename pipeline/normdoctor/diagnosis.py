"""From evidence through checks and remedies to a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .checks import CHECKS, REST, Finding, absent
from .collector import Rows
from .evidence import (
    Bench,
    Evidence,
    Forward,
    Groups,
    History,
    Metric,
    gaps,
    gather,
)
from .intervals import Difference, paired
from .layers import quantized_layers
from .moments import mean_shift, variance_ratio
from .remedies import REMEDIES
from .samples import random_state_kept

# Below this share of the gap, what is left is called unexplained.
EXPLAINED = 0.8
# A remedy that contains a simpler one is credited with what it adds.
SIMPLER = {"per_call": "joint", "masked": "per_call"}
# What is a fault even where it costs nothing measurable (yet), or where only training anew could tell.
FACTS = (
    "mode", "precision", "buffers", "averaging", "ranks", "correlated", "leakage", "updates", "lone", "dropout",
    "small", "decay",
)  # fmt: skip


@dataclass(frozen=True)
class Cause:
    """A cause whose remedy recovered score. Scores are fractions where the metric is accuracy."""

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


@dataclass(frozen=True)
class Suspicion:
    """A check that fired without a remedy that proves it: only training anew can, or it costs nothing yet."""

    check: str
    evidence: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's answer; `as_dict` is doctor.json."""

    verdict: str
    accuracies: dict[str, float]
    gap: dict[str, float]
    intervals: dict[str, list[float]]
    """95 % intervals of the normalization gap (B - A) and of D - C."""
    threshold: float
    """What a difference of A and B must exceed to count."""
    causes: list[Cause]
    suspicions: list[Suspicion]
    rest: list[Cause]
    """What else lies between training and evaluation, where no normalization gap does: shift, overfit. `recovered` is
    then of D - C (shift) and of B - D (overfit, none of it)."""
    unexplained: float
    """Share of the normalization gap that no cause recovers; 0 when there is no gap."""
    recalibration: dict[str, dict[str, Any]]
    """Score A (training samples) and C (evaluation samples) after each remedy, nothing retrained, and the gains'
    intervals."""
    calls: dict[str, int]
    layers: list[dict[str, Any]]
    """One entry a call site: running against population statistics, on training and on evaluation samples."""
    groups: dict[str, dict[int, tuple[int, float, float]]]
    """Division -> group -> (evaluation samples, C, shift of the first layer's input)."""
    checks: dict[str, str]
    """Every check: what it saw, empty where it saw nothing."""
    samples: dict[str, int]
    """Samples measured on, train and eval."""

    @property
    def named(self) -> list[str]:
        """Checks in the order of blame: causes, then suspicions, then the rest."""
        return [c.check for c in self.causes] + [s.check for s in self.suspicions] + [c.check for c in self.rest]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        lists = ("causes", "suspicions", "rest")
        return {**vars(self), **{name: [vars(entry) for entry in getattr(self, name)] for name in lists}}


BOTH = "forward=lambda model, batch: ... and metric=lambda output, batch: ..."


def first_is_right(logits: Tensor, batch: Any) -> Tensor:
    """Whether the first choice is right; the labels are the batch's last element (N,)."""
    label_N = torch.as_tensor(_parts(batch)[-1])
    scores = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or label_N.shape != logits.shape[:1]:
        raise ValueError(
            f"the model gives {scores} and the labels are {tuple(label_N.shape)}, not scores (N, K) and classes (N,): "
            f"say what is right, {BOTH}"
        )
    right: Tensor = logits.argmax(1) == label_N.to(logits.device)
    return right


def apply_first(model: nn.Module, batch: Any) -> Tensor:
    """The model on the batch's first element."""
    logits: Tensor = model(_parts(batch)[0])
    return logits


def _parts(batch: Any) -> Any:
    if isinstance(batch, Mapping) or not isinstance(batch, tuple | list) or len(batch) < 2:
        what = f"a dict with keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(f"a batch is {what}, not (input, label): say how it is used, {BOTH}")
    return batch


def diagnose(
    model: nn.Module,
    train_batches: Iterable[Any],
    eval_batches: Iterable[Any] | None = None,
    *,
    forward: Forward = apply_first,
    metric: Metric = first_is_right,
    rows: Rows | None = None,
    groups: Groups | None = None,
    history: History | None = None,
) -> Diagnosis:
    """Say why a model's batch norms evaluate badly.

    Any loader will do; it is read once, and up to 2,000 samples of each are kept. Hand over the training loader as it
    is: its batch size and its order are evidence. `forward(model, batch)` gives outputs, `metric(output, batch)` a
    score of each sample (or one of the batch), higher being better; `rows(batch, x, call)` which rows of a layer's
    input hold something real; `groups` what divides the samples (camera, subject); `history` what is known of the
    training. The model, its buffers, its modes and all random states stay as they are. ValueError, in one line, for
    what cannot be diagnosed.
    """
    with random_state_kept():
        bench, evidence = gather(model, train_batches, eval_batches, forward, metric, rows, groups, history)
        after = _after_remedies(bench, evidence)
    findings = {name: check(evidence) for name, check in CHECKS.items()}
    fired = [finding for finding in findings.values() if finding]
    causes = _prove(evidence, fired, after)
    known = {cause.check for cause in causes}
    suspicions = [
        Suspicion(f.check, f.evidence, f.advice or REMEDIES[f.remedy or ""].advice)
        for f in fired
        if f.check in FACTS and f.check not in known
    ]
    rest = _rest(evidence, after) if not causes else []
    unexplained = _unexplained(evidence, causes, fired, after)
    accuracies = {name: evidence.accuracy(name) for name in "ABCD" if name in evidence.score}
    intervals = {"normalization": evidence.normalization.interval}
    if "D" in evidence.score:
        intervals["statistics_on_eval"] = paired(evidence.score["C"], evidence.score["D"]).interval
    text = {name: finding.evidence if finding else "" for name, finding in findings.items()}
    return Diagnosis(
        verdict=_verdict(evidence, causes, suspicions, rest, unexplained, quantized_layers(model)),
        accuracies=accuracies,
        gap=gaps(accuracies),
        intervals=intervals,
        threshold=evidence.threshold,
        causes=causes,
        suspicions=suspicions,
        rest=rest,
        unexplained=unexplained,
        recalibration=_recalibration(evidence, after),
        calls=evidence.calls,
        layers=_drift(evidence),
        groups=evidence.groups,
        checks=text,
        samples={"train": len(evidence.score["A"]), "eval": len(evidence.score.get("C", ()))},
    )


def _after_remedies(bench: Bench, evidence: Evidence) -> dict[str, dict[str, Tensor]]:
    """Scores under each remedy: A, and C where A rises. One that is no different from a simpler one has its scores."""
    plain = {name: evidence.score[name] for name in "AC" if name in evidence.score}
    after: dict[str, dict[str, Tensor]] = {"eval": plain}
    if not evidence.layers:
        return {}
    for name, remedy in REMEDIES.items():
        source = remedy.statistics(evidence) if name != "eval" else None
        if source is None:
            if name in SIMPLER:
                after[name] = after[SIMPLER[name]]
            continue
        after[name] = {} if remedy.transductive else {"A": bench.on_train(source)}
        helps = remedy.transductive or paired(evidence.score["A"], after[name]["A"]).significant
        if helps and (on_eval := bench.on_eval(source)) is not None:
            after[name]["C"] = on_eval
    return after


def _prove(evidence: Evidence, fired: list[Finding], after: dict[str, dict[str, Tensor]]) -> list[Cause]:
    """Findings whose remedy recovers more than what a simpler remedy already did, largest share first.

    Separate statistics a call can only do what shared, fresh ones do and more; so reuse is blamed for what it adds
    beyond them, and where they are enough, the statistics are stale and reuse is harmless.
    """
    proven: dict[str, Cause] = {}
    by_remedy: dict[str, str] = {}
    for finding in fired:
        if finding.check == "mode":
            if (cause := _mode(evidence, finding)) is not None:
                proven["mode"] = cause
            continue
        if finding.remedy not in after:
            continue
        simpler = after[SIMPLER[finding.remedy]]["A"] if finding.remedy in SIMPLER else evidence.score["A"]
        if not paired(simpler, after[finding.remedy]["A"]).significant:
            continue
        if finding.remedy in by_remedy:
            continue  # the more specific check has it already
        by_remedy[finding.remedy] = finding.check
        proven[finding.check] = _cause(evidence, finding, after[finding.remedy])
    for strong in ("reuse", "ranks", "precision"):
        # Refreshing the shared set only mixes the calls (the ranks) in another proportion, or follows what eps did
        # upstream: no second cause.
        if strong in proven and "stale" in proven and proven[strong].recovered >= EXPLAINED * proven["stale"].recovered:
            proven.pop("stale")
    ranked = sorted(proven.values(), key=lambda cause: (cause.check != "mode", -cause.recovered))
    return [_cumulated(ranked[: i + 1]) for i in range(len(ranked))]


def _cause(evidence: Evidence, finding: Finding, scores: dict[str, Tensor]) -> Cause:
    judged = "C" if "C" in scores else "A"
    gain = paired(evidence.score["A"], scores["A"]).mean
    share = gain / max(evidence.gap, gain)
    before, with_remedy = evidence.score[judged], scores[judged]
    return Cause(
        finding.check,
        share,
        share,
        finding.evidence,
        finding.advice or REMEDIES[finding.remedy or ""].advice,
        before.double().mean().item(),
        with_remedy.double().mean().item(),
        paired(before, with_remedy).interval,
    )


def _mode(evidence: Evidence, finding: Finding) -> Cause | None:
    """The cost of the mode the model was evaluated in: against the same model in eval mode."""
    found = {name: evidence.score.get(f"found_{name}") for name in "AC"}
    if found["A"] is None:
        return None
    gain = paired(found["A"], evidence.score["A"])
    if not gain.significant and not evidence.stuck_modules and not evidence.changed_buffers:
        return None
    judged = "C" if found["C"] is not None else "A"
    before = found[judged]
    assert before is not None
    whole = max(evidence.accuracy("A"), evidence.accuracy("B")) - found["A"].double().mean().item()
    share = gain.mean / whole if gain.significant and whole > 0 else 0.0
    interval = paired(before, evidence.score[judged]).interval
    before_after = before.double().mean().item(), evidence.accuracy(judged)
    return Cause("mode", share, share, finding.evidence, REMEDIES["eval"].advice, *before_after, interval)


def _cumulated(so_far: list[Cause]) -> Cause:
    """The last cause with the share that it and those before it recover: remedies replace statistics, so the best."""
    last = so_far[-1]
    best = max((cause.recovered for cause in so_far if cause.check != "mode"), default=last.recovered)
    return Cause(**{**vars(last), "cumulative": best})


def _unexplained(
    evidence: Evidence, causes: list[Cause], fired: list[Finding], after: dict[str, dict[str, Tensor]]
) -> float:
    if not evidence.normalization.significant:
        return 0.0
    known = {cause.check for cause in causes}
    scores = [after[f.remedy]["A"] for f in fired if f.check in known and f.remedy in after and "A" in after[f.remedy]]
    best = max((score.double().mean().item() for score in scores), default=evidence.accuracy("A"))
    return min(1.0, max(0.0, 1 - (best - evidence.accuracy("A")) / evidence.gap))


def _rest(evidence: Evidence, after: dict[str, dict[str, Tensor]]) -> list[Cause]:
    """Shift and overfit, where normalization is not to blame."""
    found: list[Cause] = []
    shifted = REST["shift"](evidence)
    if shifted is not None and "target" in after and not evidence.normalization.significant:
        gain = paired(evidence.score["C"], after["target"]["C"])
        whole = paired(evidence.score["C"], evidence.score["D"])
        if gain.significant:
            share = min(1.0, gain.mean / max(whole.mean, gain.mean))
            found.append(_of_rest(evidence, shifted, share, gain, after["target"]["C"].double().mean().item()))
    overfit = REST["overfit"](evidence)
    if overfit is not None:
        nothing = Difference(0.0, 0.0, 0.0, 0.0)
        found.append(_of_rest(evidence, overfit, 0.0, nothing, evidence.accuracy("C")))
    return found


def _of_rest(evidence: Evidence, finding: Finding, share: float, gain: Difference, score: float) -> Cause:
    remedy = finding.advice or REMEDIES[finding.remedy or ""].advice
    before = evidence.accuracy("C")
    return Cause(finding.check, share, share, finding.evidence, remedy, before, score, gain.interval)


def _recalibration(evidence: Evidence, after: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name, scores in after.items():
        result[name] = {key: score.double().mean().item() for key, score in scores.items()}
        result[name]["gain"] = {key: paired(evidence.score[key], score).interval for key, score in scores.items()}
    return result


def _drift(evidence: Evidence) -> list[dict[str, Any]]:
    """What the page draws of each call site."""
    entries = []
    for (name, call), train in sorted(evidence.train.population.items(), key=lambda item: item[0][1]):
        layer = evidence.layers[name]
        entry: dict[str, Any] = {
            "layer": name,
            "call": call,
            "values_per_statistic": evidence.per_statistic((name, call)),
            "momentum": layer.momentum,
            "updates": layer.updates,
            "window": layer.window,
            "dtype": str(layer.dtype),
            "absent": absent(evidence, name)[call] if absent(evidence, name) else None,
            "scale_decayed": name in evidence.history.decayed,
        }
        held = evidence.held_out.population.get((name, call)) if evidence.held_out else None
        for where, population in (("train", train), ("eval", held)):
            if population is not None and layer.running is not None:
                entry[where] = {
                    "shift": _plain(mean_shift(population, layer.running)),
                    "ratio": _plain(variance_ratio(population, layer.running)),
                }
        entries.append(entry)
    order = list(evidence.layers)
    return sorted(entries, key=lambda entry: (order.index(entry["layer"]), entry["call"]))


def _plain(value: float) -> float | None:
    """None for what JSON has no word for."""
    return value if math.isfinite(value) else None


def _verdict(
    evidence: Evidence,
    causes: list[Cause],
    suspicions: list[Suspicion],
    rest: list[Cause],
    unexplained: float,
    int_layers: list[str],
) -> str:
    gap, least = evidence.points(evidence.gap), evidence.points(evidence.threshold)
    also = "".join(f" Besides, {s.check}: {s.evidence}." for s in suspicions)
    if not evidence.layers:
        if int_layers:
            return (
                "The model has no batch norm of its own: its layers are quantised, and their batch norms were "
                f"folded into the weights ({', '.join(int_layers[:4])}). Diagnose the float network.{also}"
            )
        if causes:
            return f"The model has no batch norm, yet: {'; '.join(_undone(cause, evidence) for cause in causes)}.{also}"
        return f"The model has no batch norm: its accuracy does not depend on statistics of batches.{also}"
    if all(layer.running is None for layer in evidence.layers.values()):
        also += " No layer keeps running statistics: what the model says of a sample depends on its batch."
    if not causes and not evidence.normalization.significant:
        words = "".join(f" {_sentence(cause, evidence)}" for cause in rest)
        return (
            f"The statistics of normalization are not to blame: on the same training samples, running ones cost {gap} "
            f"(threshold {least}).{words}{also}"
        )
    if not causes:
        return f"Running statistics cost {gap} on the training samples, and no check explains it: unexplained.{also}"
    parts = [_undone(cause, evidence) for cause in causes]
    left = f" {100 * unexplained:.0f} % of the gap is unexplained." if unexplained > 1 - EXPLAINED else ""
    return f"{'; '.join(parts)}.{left}{also}"


def _undone(cause: Cause, evidence: Evidence) -> str:
    before, after = evidence.shown(cause.before), evidence.shown(cause.after)
    if cause.check == "mode":
        return f"{cause.evidence}. In eval mode the evaluation goes from {before} to {after}"
    return (
        f"{cause.evidence}. Undoing it recovers {100 * cause.recovered:.0f} % of the normalization gap of "
        f"{evidence.points(evidence.gap)} on the training samples and takes the evaluation from {before} to {after}, "
        "nothing retrained"
    )


def _sentence(cause: Cause, evidence: Evidence) -> str:
    if cause.check == "shift":
        return (
            f"The rest is shift: {cause.evidence}; statistics of the unlabelled evaluation samples take C from "
            f"{evidence.shown(cause.before)} to {evidence.shown(cause.after)} (transductive)."
        )
    return f"Generalization (overfit): {cause.evidence}."

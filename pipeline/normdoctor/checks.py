"""CHECKS: name -> pure function of the evidence that says what it sees and which remedy would prove it, or None.

A finding is a suspicion. It becomes a cause only when its remedy, tried on the same samples, recovers score; one whose
remedy needs training (None) stays a suspicion. The order is that of precedence: of two causes that one remedy proves,
the earlier is the more specific, and is blamed. K numbers are those of the literature list in README.md.
To add a check: write it here, name it in CHECKS, and name its remedy in `remedies.REMEDIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .collector import union
from .evidence import Evidence
from .intervals import ERRORS, LEAST, Difference, paired, spread
from .layers import EPS_FACTOR, EPS_SHARE, Layer, key_of, running_moments
from .moments import log_variance_ratio, mean_shift, variance_ratio
from .sites import Site

# Medians over channels beyond which two sets of statistics are not of the same distribution
# (reference measurements: reused layers .76 to 1.04 and 2.0 to 2.2; one call below .1).
SHIFT = 0.25
RATIO = 2.0
# Between-batch variance of batch means over that of shuffled batches, median over channels: the least that counts, and
# how many standard errors of its logarithm (2.33: one in a hundred, were all channels to vary as one).
CORRELATED, CORRELATED_ERRORS = 2.0, 2.33
# Variance of a layer's input with dropout over that without.
DROPOUT = 1.1
# Difference of two ranks' running means in standard deviations.
RANKS = 0.1
# Size below which a scale is dead, and the share of a layer's scales from which that counts.
DEAD_SCALE, DEAD_SHARE = 1e-3, 0.25
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Finding:
    """What a check saw, in plain words, and the remedy that would prove it (None: only training anew can)."""

    check: str
    evidence: str
    remedy: str | None
    advice: str = ""
    """What to do; empty: the remedy's advice."""
    gain: Difference | None = None
    """What is at stake, where it was measured without a remedy."""


def mode(evidence: Evidence) -> Finding | None:
    """K0: evaluation in training mode, or an evaluation that changes buffers."""
    if evidence.stuck_modules:
        text = f"eval() leaves {_some(evidence.stuck_modules)} in training mode"
    elif evidence.changed_buffers:
        text = f"an evaluation pass changes {_some(evidence.changed_buffers)}"
    elif evidence.training_modules:
        text = f"handed over in training mode: {_some(evidence.training_modules)}"
    else:
        return None
    if "found_A" in evidence.score:
        found = evidence.shown(evidence.accuracy("found_A"))
        text += f" (as it is, it scores {found} on the training samples, and what it says depends on the batch)"
    return Finding("mode", text, "eval")


def buffers(evidence: Evidence) -> Finding | None:
    """K5: running statistics that are impossible, or were never trained."""
    bad = []
    for name, layer in evidence.layers.items():
        mean, variance = layer.running_mean_C, layer.running_variance_C
        if mean is None or variance is None:
            continue  # no running statistics by choice: evaluation uses the batch's
        if not evidence.calls.get(name):
            continue  # nothing ever passes through it
        untouched = bool((mean == 0).all() and (variance == 1).all())
        finite = bool(torch.isfinite(mean).all() and torch.isfinite(variance).all())
        why = "initial values" if untouched else "not finite" if not finite else ""
        why = why or ("negative variance" if bool((variance < 0).any()) else "")
        if why:
            frozen = ", momentum 0" if layer.momentum == 0 else ""
            bad.append(f"{name} ({why}, {layer.updates} updates{frozen})")
    advice = "load or train the running statistics: recompute them over the training samples"
    return Finding("buffers", f"running statistics unusable in {_some(bad)}", "joint", advice) if bad else None


def precision(evidence: Evidence) -> Finding | None:
    """K13: statistics kept in half precision, numbers that are not finite, variances that eps drowns."""
    half = [n for n, layer in evidence.layers.items() if layer.dtype in HALF]
    drowned = {n: share for n, layer in evidence.layers.items() if (share := layer.drowned_share) >= EPS_SHARE}
    overflowing = sorted({name for name, _ in evidence.train.nonfinite})
    if half:
        dtype = str(evidence.layers[half[0]].dtype).removeprefix("torch.")
        text = f"running statistics of {_some(half)} are kept in {dtype}"
        return Finding("precision", text, "joint", "keep batch norms in float32 (autocast does; .half() does not)")
    if overflowing or evidence.nonfinite_outputs:
        last = "behind the last batch norm" if evidence.layers else "in the outputs"
        where = f"first at the input of {overflowing[0]}" if overflowing else last
        share = 100 * evidence.nonfinite_outputs
        text = f"activations are not finite, {where} ({share:.0f} % of the outputs)"
        return Finding("precision", text, None, "look for an overflow there: half precision, learning rate, bad inputs")
    if drowned:
        name = max(drowned, key=lambda n: drowned[n])
        text = (
            f"in {name} the variance of {100 * drowned[name]:.0f} % of the channels is below {EPS_FACTOR:.0f} x eps "
            f"({evidence.layers[name].eps:g}): eps, not the data, sets their scale"
        )
        return Finding("precision", text, "eps")
    return None


def averaging(evidence: Evidence) -> Finding | None:
    """K10: averaged or copied weights with the buffers of another network."""
    source = evidence.history.source
    text = ""
    if source:
        stale = [n for n in evidence.layers if _copied(evidence.layers[n], source, n)]
        if stale:
            text = f"the weights are an average or a copy, the running statistics of {_some(stale)} are not of them"
    elif evidence.averaged and evidence.layers:
        text = f"the weights average {evidence.averaged} networks, the running statistics are those of the last"
    advice = "average the buffers too (AveragedModel(use_buffers=True)), or recompute them for the averaged weights"
    return Finding("averaging", text, "joint", advice) if text else None


def ranks(evidence: Evidence) -> Finding | None:
    """K11: ranks that keep statistics of their own."""
    states = evidence.history.ranks
    worst, where = 0.0, ""
    for name in evidence.layers if len(states) > 1 else ():
        each = [running_moments(state, name) for state in states]
        present = [m for m in each if m is not None]
        apart = max((mean_shift(present[0], other) for other in present[1:]), default=0.0)
        if apart > worst:
            worst, where = apart, name
    if worst <= RANKS:
        return None
    text = f"the {len(states)} ranks keep different statistics: means of {where} up to {worst:.2f} deviations apart"
    return Finding("ranks", text, "ranks")


def between_batches(evidence: Evidence, site: Site) -> tuple[float, float] | None:
    """How much the means of the loader's own batches vary, in units of shuffled batches' (median over channels), and
    the limit; None where there are too few batches.

    A variance of n means has a logarithm with variance 2 / (n - 1): with few batches, chance alone goes far.
    """
    given, shuffled = evidence.given.batches[site], evidence.train.batches.get(site)
    whole = evidence.train.population.get(site)
    passes = evidence.given.passes[site], evidence.train.passes[site]
    if shuffled is None or whole is None or min(passes) < 2:
        return None
    error = math.sqrt(sum(2 / (n - 1) for n in passes))
    between = given.variance_C + (given.mean_C - whole.mean_C).square()
    # Means that differ by less than a thousandth of a standard deviation are rounding (calls on empty bodies alone).
    expected = shuffled.variance_C.clamp(min=1e-6 * whole.variance_C + 1e-12)
    return (between / expected).median().item(), max(CORRELATED, math.exp(CORRELATED_ERRORS * error))


def correlated(evidence: Evidence) -> Finding | None:
    """K7: training batches that are not a random sample (sorted by class, windows of one recording)."""
    found = {site: between_batches(evidence, site) for site in evidence.given.batches}
    beyond = {site[0]: between[0] for site, between in found.items() if between and between[0] > between[1]}
    if not beyond:
        return None
    where = max(beyond, key=lambda name: beyond[name])
    text = (
        f"the loader's batches are no random samples: their means at {where} vary {beyond[where]:.1f} times as much as "
        "shuffled"
    )
    return Finding(
        "correlated", text, "joint", "reshuffle the training samples each epoch, and recompute the statistics"
    )


def leakage(evidence: Evidence) -> Finding | None:
    """K17: a network that reads its batch: the loader's own batches score better than the same samples shuffled."""
    given, mixed = evidence.score.get("given"), evidence.score.get("mixed")
    if given is None or mixed is None or len(given) != len(mixed):
        return None
    gain = paired(mixed, given)
    if not gain.significant:
        return None
    text = (
        f"by batch statistics the loader's own batches score {evidence.points(gain.mean)} more than the same samples "
        "shuffled: the network reads from the batch what it should read from the sample"
    )
    advice = "shuffle, normalise over all ranks (SyncBatchNorm), or use a norm of one sample; then train anew"
    return Finding("leakage", text, None, advice, gain)


def updates(evidence: Evidence) -> Finding | None:
    """K15: more updates of the statistics than optimizer steps (activation checkpointing, accumulation)."""
    steps = evidence.history.steps
    if not steps:
        return None
    times = {n: layer.updates / steps / max(1, evidence.calls[n]) for n, layer in evidence.layers.items()}
    # Slow statistics that are still on their way would be slower yet with fewer updates: `stale` says so.
    many = [n for n, t in times.items() if t > 1.5 and evidence.layers[n].settled]
    if not many:
        return None
    k = times[many[0]]
    momentum = evidence.layers[many[0]].momentum
    text = f"{_some(many)} updated {k:.1f} times an optimizer step (accumulation, or activation checkpointing)"
    advice = "one update a step" + (f": momentum {1 - (1 - momentum) ** (1 / k):.3g} undoes it" if momentum else "")
    return Finding("updates", text, "joint", advice)


def lone(evidence: Evidence) -> Finding | None:
    """K16: a batch of one sample left over."""
    if evidence.sizes[1] == 0 or evidence.size == 1 or not evidence.layers:
        return None
    text = f"{evidence.sizes[1]} training batch(es) of one sample, the others of {evidence.size}: they count alike"
    return Finding("lone", text, "joint", "drop_last=True, or batches whose sizes differ by one at most")


def dropout(evidence: Evidence) -> Finding | None:
    """K9: dropout in front of a batch norm: training sees another variance than evaluation (Li et al. 2019)."""
    without, behind = evidence.train.layers(), []
    for name, on in union(evidence.dropped).items():
        layer, off = evidence.layers[name].running, without.get(name)
        if layer is None or off is None:
            continue
        grown = log_variance_ratio(on, off)
        # The statistics remember the variance with dropout: nearer to it than to that without.
        remembers = log_variance_ratio(layer, off) / grown > 0.5 if abs(grown) > 1e-6 else False
        if abs(grown) > torch.tensor(DROPOUT).log().item() and remembers:
            behind.append((abs(grown), name, grown))
    if not behind:
        return None
    _, name, grown = max(behind)
    text = (
        f"dropout in front of {_some([n for _, n, _ in behind])}: at {name} the variance is "
        f"{torch.tensor(grown).exp().item():.2f} times that without, and the running variance follows it"
    )
    return Finding("dropout", text, "joint", "dropout only behind the last batch norm; or statistics without dropout")


def stale(evidence: Evidence) -> Finding | None:
    """K4: running statistics that lag behind the population the weights now see."""
    worst, where = 0.0, ""
    population = evidence.train.layers()
    for name, layer in evidence.layers.items():
        if layer.running is None or name not in population:
            continue
        drift, times = mean_shift(population[name], layer.running), variance_ratio(population[name], layer.running)
        if (drift > SHIFT or times > RATIO) and max(drift, times) > worst:
            window = f"momentum {layer.momentum}: about {1 / layer.momentum:.0f} updates" if layer.momentum else "all"
            worst = max(drift, times)
            where = (
                f"{name}: running mean {drift:.2f} standard deviations from the population's, variance ratio "
                f"{_shown(times)}; its memory is {window} of {layer.updates}"
            )
    return Finding("stale", where, "joint") if where else None


def reuse(evidence: Evidence) -> Finding | None:
    """K2, K3: one layer called several times a forward pass, on different distributions."""
    reused = {name: calls for name, calls in evidence.calls.items() if calls > 1}
    population, apart = evidence.train.population, {}
    for name, calls in reused.items():
        sites = [population[name, call] for call in range(calls) if (name, call) in population]
        drift = max(mean_shift(sites[0], other) for other in sites[1:])
        times = max(variance_ratio(sites[0], other) for other in sites[1:])
        if drift > SHIFT or times > RATIO:
            apart[name] = (drift, times)
    if not apart:
        return None
    name, (drift, times) = max(apart.items(), key=lambda item: item[1][0])
    shares = absent(evidence, name)
    rows = f"; rows of absent bodies by call: {', '.join(f'{100 * s:.0f} %' for s in shares)}" if shares else ""
    return Finding(
        "reuse",
        f"{_some(list(apart))} called {max(reused[n] for n in apart)} times in one forward pass, on different "
        f"distributions ({name}: means {drift:.2f} standard deviations apart, variance ratio {_shown(times)}{rows}); "
        "training normalises each call by its own statistics, evaluation uses one mixture that fits neither",
        "per_call",
    )


def padding(evidence: Evidence) -> Finding | None:
    """K8: absent bodies or padding counted in the statistics, which the network does not want there."""
    worst, where, share = 0.0, "", 0.0
    for site, real in evidence.train.real.items():
        everything = evidence.train.population[site]
        empty = 1 - real.count / everything.count if everything.count else 0.0
        if empty <= 0 or real.count == 0:
            continue
        apart = max(mean_shift(everything, real), variance_ratio(everything, real) / RATIO * SHIFT)
        if apart > worst:
            worst, where, share = apart, site[0], empty
    if worst <= SHIFT:
        return None
    text = f"{100 * share:.0f} % of the rows at {where} are absent or padding, and the statistics count them"
    return Finding("padding", text, "masked")


def small(evidence: Evidence) -> Finding | None:
    """K6: too few samples in a training batch: its statistics are noise, and the score depends on its size."""
    large = evidence.score.get("large")
    if large is None or len(large) != len(evidence.score["B"]):
        return None
    gain = paired(evidence.score["B"], large)
    if abs(gain.mean) <= gain.threshold:
        return None
    least = min(evidence.per_statistic(site) for site in evidence.train.batches)
    text = (
        f"batches of {evidence.size}, {least:.0f} values a statistic at the least: the same samples "
        f"score {evidence.points(gain.mean)} more by batch statistics in batches of {4 * evidence.size}"
    )
    return Finding("small", text, None, "larger batches, statistics over all ranks, or a norm of one sample (gn)", gain)


def decay(evidence: Evidence) -> Finding | None:
    """K14: weight decay on the scales of batch norms, which shrinks them to nothing."""
    scales = {n: layer.scale_C for n, layer in evidence.layers.items() if layer.scale_C is not None}
    if not scales:
        return None
    dead = {n: (scale.abs() < DEAD_SCALE).double().mean().item() for n, scale in scales.items()}
    name = max(dead, key=lambda n: dead[n])
    if dead[name] < DEAD_SHARE:
        return None
    known = "with weight decay on it" if name in evidence.history.decayed else "weight decay on it, or dead channels"
    text = f"{100 * dead[name]:.0f} % of the scales of {name} are below {DEAD_SCALE:g} ({known})"
    return Finding("decay", text, None, "no weight decay on scales and shifts of norms (norm.decay off); train anew")


CHECKS: dict[str, Callable[[Evidence], Finding | None]] = {
    "mode": mode,
    "precision": precision,
    "buffers": buffers,
    "averaging": averaging,
    "ranks": ranks,
    "correlated": correlated,
    "leakage": leakage,
    "updates": updates,
    "lone": lone,
    "dropout": dropout,
    "stale": stale,
    "reuse": reuse,
    "padding": padding,
    "small": small,
    "decay": decay,
}


def shifted(evidence: Evidence) -> Finding | None:
    """K12: evaluation samples whose layer inputs are distributed differently from the training samples'."""
    if evidence.held_out is None or "D" not in evidence.score:
        return None
    train, held = evidence.train.layers(), evidence.held_out.layers()
    drifts = {name: mean_shift(train[name], held[name]) for name in train if name in held}
    if not drifts:
        return None
    name = max(drifts, key=lambda n: drifts[n])
    gain = paired(evidence.score["C"], evidence.score["D"])
    if drifts[name] <= SHIFT and not gain.significant:
        return None
    text = f"evaluation samples reach {name} {drifts[name]:.2f} standard deviations from where training samples do"
    for division, groups in evidence.groups.items():
        if len(groups) > 1:
            far = max(groups, key=lambda g: groups[g][2])
            text += f"; farthest {division} {far}: {groups[far][2]:.2f}, score {evidence.shown(groups[far][1])}"
    return Finding("shift", text, "target", gain=gain)


def overfitted(evidence: Evidence) -> Finding | None:
    """What is left between B and D when normalization has no part in it: generalization."""
    if "D" not in evidence.score or not len(evidence.score["D"]):
        return None
    b, d = evidence.score["B"].double(), evidence.score["D"].double()
    loss = (b.mean() - d.mean()).item()
    error = (b.var() / len(b) + d.var() / max(1, len(d))).sqrt().item()  # other samples: nothing pairs
    if not loss > max(LEAST * spread(b), ERRORS * error):
        return None
    text = f"{evidence.points(loss)} between training and evaluation samples remain with the same kind of statistics"
    advice = "more or more varied data, augmentation, a smaller network, weight decay; of a run, --fine-tune 20 tells "
    return Finding("overfit", text, None, advice + "whether the scale of its input is to blame")


# What the rest may be, where it is not normalization.
REST: dict[str, Callable[[Evidence], Finding | None]] = {"shift": shifted, "overfit": overfitted}


def absent(evidence: Evidence, name: str) -> list[float]:
    """Share of each call's rows that belong to absent bodies or padding; empty where that is unknown."""
    shares = []
    for call in range(evidence.calls[name]):
        everything, real = evidence.train.population.get((name, call)), evidence.train.real.get((name, call))
        if everything is None or real is None or not everything.count:
            return []
        shares.append(1 - real.count / everything.count)
    return shares


def _copied(layer: Layer, source: Mapping[str, Tensor], name: str) -> bool:
    """Whether a layer's statistics are the source's own, or far behind them, while its scale is not the source's."""
    mean, scale = source.get(key_of(name, "running_mean")), source.get(key_of(name, "weight"))
    steps = source.get(key_of(name, "num_batches_tracked"))
    if mean is None or layer.running_mean_C is None:
        return False
    moved = scale is None or layer.scale_C is None or not torch.equal(scale.cpu(), layer.scale_C.cpu())
    copied = torch.equal(mean.cpu(), layer.running_mean_C.cpu())
    behind = steps is not None and layer.updates < int(steps) / 2
    return moved and (copied or behind)


def _shown(times: float) -> str:
    return f"{times:.1f}" if times < 1000 else "over 1000"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

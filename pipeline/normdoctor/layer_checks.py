"""Checks of what the layers remember, against what their call sites see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .collector import union
from .evidence import Evidence
from .finding import OF_THE_CHECK, RECOMPUTE, Advice, Finding, listed
from .layers import EPS_FACTOR, EPS_SHARE, LARGER_EPS, Layer, key_of, running_moments
from .moments import (
    RATIO_LIMIT,
    SHIFT_LIMIT,
    Distance,
    Moments,
    distance,
    log_variance_ratio,
    mean_shift,
    variance_ratio,
)
from .sites import Site

# Ratio of the variances of a layer's input with and without dropout.
DROPOUT_RATIO = 1.1
# Difference of two ranks' running means, in standard deviations.
RANK_SHIFT = 0.1
# Updates per optimizer step.
UPDATES_PER_STEP = 1.5
# Size below which a scale is dead, and the share of a layer's scales from which that counts.
DEAD_SCALE, DEAD_SHARE = 1e-3, 0.25
# A layer without a scale above this began at zero, as the last norm of a residual branch does.
BORN_ZERO = 0.1
# Share of absent rows, and ratio of the real rows' shares in usual batches, from which padding is a fault of training
# even if nothing undoes it: the variance of a batch then changes by as much.
MOSTLY, VARYING = 0.5, 2.0
# Momentum from which statistics are those of the last batches alone.
TOO_FAST = 0.5
# Statistics whose layer had this many times the updates that it remembers cannot lag behind the weights: on 60 healthy
# networks of NormBugs, at their full learning rate, the farthest layer is .14 deviations and a ratio of 1.1 away.
MANY_WINDOWS = 8.0
# Shares of the way from the initial values to the population's at which statistics lag, and the share of their own
# variation that may lead elsewhere: weights change while statistics follow.
BEGUN, ARRIVED, ASTRAY = 0.02, 0.9, 0.2
# Momentum below which a layer that counts no updates may not have had enough of them.
SLOW = 0.02
INITIAL = "initial values"
AVERAGE_BUFFERS = "average the buffers with the weights (AveragedModel(use_buffers=True)), or call update_bn after it"
HALF = (torch.float16, torch.bfloat16)


def precision(evidence: Evidence) -> Finding | None:
    """Statistics in half precision, non-finite activations, variances that eps drowns."""
    half = [n for n, layer in evidence.layers.items() if layer.dtype in HALF]
    if half:
        dtype = str(evidence.layers[half[0]].dtype).removeprefix("torch.")
        text = f"running statistics of {listed(half)} are kept in {dtype}"
        later = "keep batch norms in float32 (autocast does; .half() does not)"
        return Finding(text, Advice(f"{RECOMPUTE}, in float32", later))
    unusable = any(_unusable(layer) for layer in evidence.layers.values())
    overflowing = sorted({name for name, _ in evidence.train.nonfinite})
    if overflowing or (evidence.nonfinite_outputs and not unusable):
        last = "after the last batch norm" if evidence.layers else "in the outputs"
        where = f"first at the input of {overflowing[0]}" if overflowing else last
        text = f"activations are not finite, {where} ({100 * evidence.nonfinite_outputs:.0f} % of the outputs)"
        advice = "look for an overflow there: half precision, learning rate, invalid inputs"
        return Finding(text, Advice(next_training=advice), remedy=None)
    drowned = {n: share for n, layer in evidence.layers.items() if (share := layer.drowned_share) >= EPS_SHARE}
    if drowned:
        name = max(drowned, key=lambda n: drowned[n])
        text = (
            f"in {name} the variance of {100 * drowned[name]:.0f} % of the channels is below {EPS_FACTOR:.0f} x eps "
            f"({evidence.layers[name].eps:g}): eps, not the data, sets their scale"
        )
        return Finding(text, remedy="eps", is_fact=evidence.costs)
    thin = [name for name, layer in evidence.layers.items() if layer.is_thin]
    if thin:
        text = (
            f"the variance of {listed(thin)} is so small that eps sets the scale of the output: the network was "
            f"trained with eps {LARGER_EPS:g} (Keras, TensorFlow) and is evaluated with "
            f"{evidence.layers[thin[0]].eps:g}"
        )
        return Finding(text, remedy="larger_eps", is_fact=False)
    return None


def buffers(evidence: Evidence) -> Finding | None:
    """Running statistics that are impossible, or were never trained."""
    bad, frozen, untrained = [], False, True
    for name, layer in evidence.layers.items():
        if not evidence.calls.get(name):
            continue  # nothing ever passes through it
        if why := _unusable(layer):
            frozen = layer.momentum == 0
            untrained = untrained and why == INITIAL and not layer.updates
            bad.append(f"{name} ({why}, {layer.updates} updates{', momentum 0' if frozen else ''})")
    later = (
        "momentum 0 freezes the statistics: set bn.momentum = 0.1"
        if frozen
        else "load every buffer of a checkpoint (strict=True), and skip batches that are not finite"
    )
    text = f"running statistics are unusable in {listed(bad)}"
    # An untrained network has its initial statistics by right, unless any of its scores depends on them.
    acts = not torch.equal(evidence.score["A"], evidence.score["B"])
    return Finding(text, Advice(RECOMPUTE, later), is_fact=acts or not untrained) if bad else None


def _unusable(layer: Layer) -> str:
    """Return why a layer's running statistics cannot be used; empty where they can, or where it keeps none."""
    mean, variance = layer.running_mean_C, layer.running_variance_C
    if mean is None or variance is None:
        return ""
    if bool((mean == 0).all() and (variance == 1).all()):
        return INITIAL
    if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        return "not finite"
    return "negative variance" if bool((variance < 0).any()) else ""


def averaging(evidence: Evidence) -> Finding | None:
    """Averaged or copied weights with the buffers of another network."""
    source = evidence.history.source
    text = ""
    if source:
        foreign = [n for n, layer in evidence.layers.items() if _is_of_the_source(layer, source, n)]
        if foreign:
            text = f"the weights are an average or a copy; the running statistics of {listed(foreign)} are not of them"
    elif evidence.averaged and evidence.layers:
        text = f"the weights average {evidence.averaged} networks; the running statistics are those of the last"
    return Finding(text, Advice(RECOMPUTE, AVERAGE_BUFFERS)) if text else None


def _is_of_the_source(layer: Layer, source: Mapping[str, Tensor], name: str) -> bool:
    """Return whether a layer's statistics are the source's, or far behind them, while its scale is not."""
    mean, scale = source.get(key_of(name, "running_mean")), source.get(key_of(name, "weight"))
    updates = source.get(key_of(name, "num_batches_tracked"))
    if mean is None or layer.running_mean_C is None:
        return False
    moved = scale is None or layer.scale_C is None or not torch.equal(scale.cpu(), layer.scale_C.cpu())
    copied = torch.equal(mean.cpu(), layer.running_mean_C.cpu())
    behind = updates is not None and layer.updates < int(updates) / 2
    return moved and (copied or behind)


def ranks(evidence: Evidence) -> Finding | None:
    """Ranks that keep statistics of their own."""
    states = evidence.history.ranks
    worst, where = 0.0, ""
    for name in evidence.layers if len(states) > 1 else ():
        present = [own for state in states if (own := running_moments(state, name)) is not None]
        apart = max((mean_shift(present[0], other) for other in present[1:]), default=0.0)
        if apart > worst:
            worst, where = apart, name
    if worst <= RANK_SHIFT:
        return None
    return Finding(
        f"the {len(states)} ranks keep different statistics: means of {where} up to {worst:.2f} standard deviations "
        "apart"
    )


def updates(evidence: Evidence) -> Finding | None:
    """More updates of the statistics than optimizer steps (activation checkpointing, gradient accumulation)."""
    steps = evidence.history.steps
    if not steps:
        return None
    times = {n: layer.updates / steps / max(1, evidence.calls[n]) for n, layer in evidence.layers.items()}
    # Slow statistics that have not settled would be slower still with fewer updates: `stale` reports them.
    many = [n for n, t in times.items() if t > UPDATES_PER_STEP and evidence.layers[n].settled]
    if not many:
        return None
    k = times[many[0]]
    momentum = evidence.layers[many[0]].momentum
    text = f"{listed(many)} updated {k:.1f} times per optimizer step (accumulation, or activation checkpointing)"
    undo = f": momentum {1 - (1 - momentum) ** (1 / k):.3g} compensates for it" if momentum else ""
    return Finding(text, Advice(RECOMPUTE, "one update per step" + undo))


def dropout(evidence: Evidence) -> Finding | None:
    """Dropout in front of a batch norm: training sees another variance than evaluation (Li et al. 2019)."""
    without, behind = evidence.train.layers(), []
    for name, on in union(evidence.dropped).items():
        running, off = evidence.layers[name].running, without.get(name)
        if running is None or off is None:
            continue
        grown = log_variance_ratio(on, off)
        # The statistics remember the variance with dropout: they are nearer to it than to that without.
        remembers = log_variance_ratio(running, off) / grown > 0.5 if abs(grown) > 1e-6 else False
        if abs(grown) > torch.tensor(DROPOUT_RATIO).log().item() and remembers:
            behind.append((abs(grown), name, grown))
    if not behind:
        return None
    _, name, grown = max(behind)
    remedy = OF_THE_CHECK if evidence.costs_as_much("dropped") else None
    return Finding(
        f"dropout in front of {listed([n for _, n, _ in behind])}: at {name} the variance is "
        f"{torch.tensor(grown).exp().item():.2f} times that without, and the running variance follows it",
        Advice(f"{RECOMPUTE}, with dropout off", "use dropout only after the last batch norm"),
        remedy,
        is_fact=evidence.costs,
    )


def instance(evidence: Evidence) -> Finding | None:
    """Instance norms with running statistics: training never normalizes by them."""
    names = [name for name, layer in evidence.layers.items() if layer.per_sample and evidence.calls.get(name)]
    if not names:
        return None
    return Finding(
        f"{listed(names)} normalize each sample by its own statistics in training, and by running statistics of all "
        "samples in evaluation (instance norm with track_running_stats)"
    )


def stale(evidence: Evidence) -> Finding | None:
    """Running statistics that lag behind the weights, or remember too few batches."""
    name, apart = _farthest(evidence)
    if not name or not apart.beyond_limit or _cannot_lag(evidence, name):
        return None
    return lagging(evidence)


def foreign(evidence: Evidence) -> Finding | None:
    """Running statistics that do not lag, and yet are not those of the training samples under these weights."""
    name, apart = _farthest(evidence)
    if not name or not apart.beyond_limit or not _cannot_lag(evidence, name):
        return _unsettled(evidence)
    return foreign_by_effect(evidence)


def _unsettled(evidence: Evidence) -> Finding | None:
    """Buffers of other layers that follow the weights, and are not where these weights move them."""
    if not evidence.settled:
        return None
    return Finding(
        f"{listed(list(evidence.settled))} follow the weights in training (as the vectors of spectral norm do), and "
        "are not those of these weights: they belong to other weights, or are an average",
        remedy="settled",
    )


def too_fast(evidence: Evidence) -> bool:
    """Return whether the farthest layer's statistics are nearly those of the last batch alone."""
    name, _ = _farthest(evidence)
    return bool(name) and (evidence.layers[name].momentum or 0.0) > TOO_FAST


def lagging(evidence: Evidence) -> Finding:
    """Return the finding `stale` about the farthest layer, however far it is."""
    name, apart = _farthest(evidence)
    memory, later = _memory(evidence.layers[name])
    return Finding(f"{_apart_text(name, apart)}; {memory}", Advice(RECOMPUTE, later))


def foreign_by_effect(evidence: Evidence) -> Finding:
    """Return the finding where fresh statistics are known to score better; the distance alone may be small."""
    name, apart = _farthest(evidence)
    layer = evidence.layers[name]
    frozen = "; momentum 0 freezes them" if layer.momentum == 0 else ""
    updates = f"; {layer.updates} updates" if layer.updates or frozen else ""
    text = (
        "the running statistics are not those of the training samples under these weights: they belong to other data "
        f"or other weights ({_apart_text(name, apart)}{updates}{frozen})"
    )
    later = (
        "save and load statistics together with the weights that they belong to; "
        f"{AVERAGE_BUFFERS}; train frozen batch norms in eval mode, so that the weights fit their statistics"
    )
    return Finding(text, Advice(RECOMPUTE, later))


def _farthest(evidence: Evidence) -> tuple[str, Distance]:
    """Return the layer whose running statistics are farthest from the population's; "" where none keeps any."""
    population, worst, where = evidence.train.layers(), Distance(0.0, 0.0), ""
    for name, layer in evidence.layers.items():
        if layer.running is None or name not in population:
            continue
        apart = distance(population[name], layer.running)
        if not where or (apart.beyond_limit, max(apart)) > (worst.beyond_limit, max(worst)):
            worst, where = apart, name
    return where, worst


def _cannot_lag(evidence: Evidence, name: str) -> bool:
    """Return whether a layer had so many updates within so short a memory that its statistics cannot lag."""
    layer = evidence.layers[name]
    if layer.momentum is None or layer.momentum > TOO_FAST:
        return False
    if layer.momentum and layer.momentum < SLOW and not layer.updates:
        return not _is_on_the_way(layer, evidence.train.layers()[name])
    return layer.momentum == 0 or not layer.updates or layer.updates > MANY_WINDOWS / layer.momentum


def _is_on_the_way(layer: Layer, population: Moments) -> bool:
    """Return whether statistics lie between their initial values and the population's, the same way for all channels.

    Layers that are not torch's count no updates: only the values tell.
    """
    assert layer.running is not None
    found, goal = (torch.cat([one.mean_C, one.variance_C - 1]).double() for one in (layer.running, population))
    way = (found @ goal / goal.square().sum().clamp(min=1e-12)).item()
    rest = (found - way * goal).square().sum() / found.square().sum().clamp(min=1e-12)
    return BEGUN < way < ARRIVED and rest.item() < ASTRAY


def _memory(layer: Layer) -> tuple[str, str]:
    """Return what a layer remembers of its updates, and what to change in training."""
    if layer.momentum is None:
        text = f"momentum None averages over all {layer.updates} updates, those of early weights included"
        return text, "set bn.momentum = 0.1, or reset the statistics before the last epochs"
    if layer.momentum > TOO_FAST:
        text = f"momentum {layer.momentum:g} is too fast: the statistics are nearly those of the last batch alone"
        later = f"set bn.momentum = {max(0.001, 1 - layer.momentum):.3g}"
        return text, f"{later}: torch's momentum is the weight of the new batch, 1 minus that of Keras and TensorFlow"
    text = f"momentum {layer.momentum:g} remembers about {1 / layer.momentum:.0f} updates"
    if not layer.updates:
        later = f"raise the momentum (now {layer.momentum:g} for the new batch), or train longer"
        return f"{text}: the statistics are still on the way from their initial values", later
    text += f", of {layer.updates}"
    if layer.settled and layer.window < layer.updates / 4:
        later = "let the learning rate fall at the end of training; save statistics and weights of the same step"
        return f"{text}: the weights moved faster than that, or the statistics belong to others", later
    later = f"raise bn.momentum (now {layer.momentum:g}), or train longer"
    return f"{text}: the statistics lag behind the weights", later


def _apart_text(name: str, apart: Distance) -> str:
    return (
        f"{name}: running mean {apart.shift:.2f} standard deviations from the population's, variance ratio "
        f"{_ratio_text(apart.ratio)}"
    )


def reuse(evidence: Evidence) -> Finding | None:
    """One layer called several times per forward pass, on different distributions."""
    reused = {name: calls for name, calls in evidence.calls.items() if calls > 1}
    population, apart = evidence.train.population, {}
    for name, calls in reused.items():
        first, *others = [population[name, call] for call in range(calls) if (name, call) in population]
        worst = Distance(
            max(mean_shift(first, other) for other in others), max(variance_ratio(first, other) for other in others)
        )
        if worst.beyond_limit:
            apart[name] = worst
    if not apart:
        return None
    name, worst = max(apart.items(), key=lambda item: item[1].shift)
    shares = ", ".join(f"{100 * share:.0f} %" for share in evidence.absent_shares(name))
    rows = f"; rows of absent bodies per call: {shares}" if shares else ""
    return Finding(
        f"{listed(list(apart))} called {max(reused[n] for n in apart)} times per forward pass, on different "
        f"distributions ({name}: means {worst.shift:.2f} standard deviations apart, variance ratio "
        f"{_ratio_text(worst.ratio)}{rows}); training normalizes each call by its own statistics, evaluation uses one "
        "mixture that fits neither"
    )


def padding(evidence: Evidence) -> Finding | None:
    """Absent bodies or padding counted in the statistics, which the network does not need there."""
    worst, where, share = 0.0, ("", 0), 0.0
    for site, real in evidence.train.real.items():
        everything = evidence.train.population[site]
        absent = 1 - real.count / everything.count if everything.count else 0.0
        if absent <= 0 or real.count == 0:
            continue
        apart = distance(everything, real)
        in_shifts = max(apart.shift, apart.ratio / RATIO_LIMIT * SHIFT_LIMIT)
        if in_shifts > worst:
            worst, where, share = in_shifts, site, absent
    if worst <= SHIFT_LIMIT:
        return None
    text = f"{100 * share:.0f} % of the rows at {where[0]} are absent or padding, and the statistics count them"
    low, high = _usual_shares(evidence, where)
    varies = high > VARYING * low and share > MOSTLY and evidence.calls[where[0]] == 1
    if varies:
        text += (
            f"; usual batches hold between {100 * low:.0f} and {100 * high:.0f} % real rows, so that training "
            "normalizes the same sample on different scales"
        )
    return Finding(text, is_fact=varies)


def _usual_shares(evidence: Evidence, site: Site) -> tuple[float, float]:
    """Return the share of real rows one deviation below and above the batches' mean, on a logarithmic scale."""
    seen = evidence.train.shares.get(site)
    if seen is None:
        return 1.0, 1.0
    mean, deviation = seen.mean_C.item(), seen.variance_C.sqrt().item()
    return math.exp(mean - deviation), min(1.0, math.exp(mean + deviation))


def decay(evidence: Evidence) -> Finding | None:
    """Weight decay on the scales of batch norms, which shrinks them to zero."""
    scales = {
        name: layer.scale_C
        for name, layer in evidence.layers.items()
        if layer.scale_C is not None
        and layer.scale_C.numel()
        and (name in evidence.history.decayed or layer.scale_C.abs().max() > BORN_ZERO)
    }
    if not scales:
        return None
    dead = {n: (scale.abs() < DEAD_SCALE).double().mean().item() for n, scale in scales.items()}
    name = max(dead, key=lambda n: dead[n])
    if dead[name] < DEAD_SHARE:
        return None
    reason = "with weight decay on it" if name in evidence.history.decayed else "weight decay on it, or dead channels"
    return Finding(
        f"{100 * dead[name]:.0f} % of the scales of {name} are below {DEAD_SCALE:g} ({reason})",
        Advice(next_training="put scales and shifts of norms into a parameter group with weight_decay=0"),
    )


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 1000 else "over 1000"

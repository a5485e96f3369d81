"""Measure: what the layers see, what they remember, and how scores depend on which statistics they use."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .collector import Collector, Rows, Seen, SiteMoments, add
from .intervals import Difference, paired, spread
from .layers import Layer
from .moments import Moments, mean_shift
from .samples import Samples, take
from .sites import Site, Statistics, batch_norms, buffers_kept, restore_buffers, same_bits, statistics
from .sources import batch_statistics, running

Forward = Callable[[nn.Module, Any], Tensor]  # model, batch -> output, logits (N, K) for the default metric
Metric = Callable[
    [Tensor, Any], Tensor
]  # output, batch -> score of each sample (N,), higher is better; or of the batch
Groups = Mapping[
    str, Callable[[Any], Tensor]
]  # what divides samples (camera, subject) -> number of each sample's group
Batches = Iterator[tuple[Tensor, Any]]

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Below this batch size, scores are also measured in batches four times as large.
FEW = 16
# Samples a group is measured on.
GROUP_SAMPLES = 256


@dataclass(frozen=True)
class History:
    """What is known of the training besides the model; whatever is unknown stays empty."""

    steps: int | None = None
    """Optimizer steps taken."""
    decayed: frozenset[str] = frozenset()
    """Norm layers whose scale has weight decay (`decayed_scales` finds them)."""
    source: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the trained network that the model is an average or a partial copy of."""
    ranks: Sequence[Mapping[str, Tensor]] = ()
    """The buffers (or whole states) of every rank, where each kept its own."""


@dataclass(frozen=True)
class Evidence:
    """All that the checks may look at."""

    training_modules: list[str]
    """Modules that were in training mode when the model was handed over."""
    stuck_modules: list[str]
    """Modules that `eval()` left in training mode."""
    changed_buffers: list[str]
    """Buffers that an evaluation pass changed."""
    averaged: int | None
    """Networks averaged, where the model is torch's AveragedModel and its buffers are not averaged."""
    layers: dict[str, Layer]
    train: Seen
    """Training samples in shuffled batches."""
    masked: SiteMoments
    """Training samples, each batch normalised by its real rows alone; empty when no row is absent."""
    given: Seen
    """Training samples in the loader's own batches."""
    dropped: SiteMoments
    """Training samples with dropout on; empty without dropout layers."""
    held_out: Seen | None
    groups: dict[str, dict[int, tuple[int, float, float]]]
    """Division -> group -> (evaluation samples, accuracy C, shift of the first layer's input from training's)."""
    score: dict[str, Tensor]
    """Score of each sample, A to D and beyond: found (as handed over: found_A, found_C), given and mixed (the loader's
    own batches and the same samples shuffled, batch statistics), large (B in batches four times as large)."""
    nonfinite_outputs: float
    """Share of training samples whose output, by running statistics, is not finite."""
    sizes: Counter[int]
    """Sizes of the training batches."""
    history: History

    def accuracy(self, name: str) -> float:
        """Mean score of a pass (accuracy as a fraction)."""
        return self.score[name].double().mean().item()

    @cached_property
    def normalization(self) -> Difference:
        """Normalization gap B - A, with its interval and threshold."""
        return paired(self.score["A"], self.score["B"])

    @property
    def gap(self) -> float:
        """Normalization gap B - A."""
        return self.normalization.mean

    @property
    def threshold(self) -> float:
        """What a difference must exceed to count."""
        return self.normalization.threshold

    @cached_property
    def calls(self) -> dict[str, int]:
        """Calls of each layer in one forward pass."""
        return {name: 1 + max((c for n, c in self.train.population if n == name), default=-1) for name in self.layers}

    @property
    def is_share(self) -> bool:
        """Whether the metric lies in [0, 1], as accuracy does."""
        return all(spread(scores) == 1.0 for scores in self.score.values())

    def points(self, difference: float) -> str:
        """A difference of scores in words."""
        return f"{100 * difference:.1f} points" if self.is_share else f"{difference:.3g}"

    def shown(self, score: float) -> str:
        """A score in words."""
        return f"{100 * score:.1f} %" if self.is_share else f"{score:.3g}"

    @property
    def size(self) -> int:
        """The usual size of a training batch."""
        return self.sizes.most_common(1)[0][0]

    def per_statistic(self, site: Site) -> float:
        """Values that one batch statistic of a call site is taken over."""
        return self.train.population[site].count / max(1, self.train.passes[site])


class Bench:
    """The patient (a copy), its samples, and how to run and score it: a pass is one line."""

    def __init__(self, model: nn.Module, train: Samples, held_out: Samples | None, forward: Forward, metric: Metric):
        self.model, self.train, self.held_out = model, train, held_out
        self.forward, self.metric = forward, metric
        self.nonfinite = 0

    def run(self, batches: Batches, source: Statistics | None) -> Tensor:
        """Scores in the order of the samples' positions under the given statistics; one a batch if the metric is."""
        found: list[Tensor] = []
        positions: list[Tensor] = []
        self.nonfinite = 0
        with torch.no_grad(), buffers_kept(self.model), statistics(self.model, source):
            for at, batch in source.of_batches(batches) if isinstance(source, Collector) else batches:
                output = self.forward(self.model, batch)
                scores = torch.as_tensor(self.metric(output, batch)).detach().cpu()
                if scores.numel() != len(at) and scores.numel() != 1:
                    raise ValueError(
                        f"metric gave {tuple(scores.shape)} for a batch of {len(at)}: it must give one score a sample, "
                        "or one for the batch, higher being better"
                    )
                if isinstance(output, Tensor) and output.is_floating_point():
                    bad = ~torch.isfinite(output)
                    self.nonfinite += int(bad.flatten(1).any(1).sum()) if output.dim() > 1 else int(bad.sum())
                found.append(scores.reshape(-1))
                positions.append(at if scores.numel() == len(at) else at[:1])
        return finite(torch.cat(found))[torch.cat(positions).argsort()]

    def on_train(self, source: Statistics | None) -> Tensor:
        """Scores of the training samples in shuffled batches."""
        return self.run(self.train.batches(), source)

    def on_eval(self, source: Statistics | None) -> Tensor | None:
        """Scores of the evaluation samples in shuffled batches of the training size; None when there are none."""
        return None if self.held_out is None else self.run(self.held_out.batches(size=self.train.size), source)

    def score(self, source: Statistics | None) -> dict[str, Tensor]:
        """Both: A and, when there are evaluation samples, C."""
        scores = {"A": self.on_train(source), "C": self.on_eval(source)}
        return {name: score for name, score in scores.items() if score is not None}


def gather(
    model: nn.Module,
    train_loader: Iterable[Any],
    eval_loader: Iterable[Any] | None,
    forward: Forward,
    metric: Metric,
    rows: Rows | None,
    groups: Groups | None = None,
    history: History | None = None,
) -> tuple[Bench, Evidence]:
    """A copy of the model on the bench, and the evidence. The model itself is not touched."""
    inner, averaged = unwrapped(model)
    refuse_what_cannot_be_read(inner)
    train = take(train_loader)
    held_out = None if eval_loader is None else take(eval_loader)
    training = [name or "the model" for name, module in inner.named_modules() if module.training]
    try:
        patient = copy.deepcopy(inner)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied, and a diagnosis works on a copy ({error}): take away what it keeps of a "
            "forward pass, or of weight_norm, or hand over a fresh network with its state loaded"
        ) from None
    bench = Bench(patient, train, held_out, forward, metric)
    found = bench.score(None) if training else {}
    patient.eval()
    stuck = [name or "the model" for name, module in patient.named_modules() if module.training]
    layers = {name: Layer.of(layer) for name, layer in batch_norms(patient).items()}
    plain, changed, nonfinite = _plain_pass(bench, layers)
    if (stuck or changed) and layers:
        found = found or plain
        plain = bench.score(running(layers))
    score = {f"found_{name}": values for name, values in found.items()} | plain
    nothing = Seen()
    evidence: dict[str, Any] = {
        "train": nothing,
        "given": nothing,
        "dropped": {},
        "masked": {},
        "held_out": None,
        "groups": {},
    }
    if layers:
        train_seen = Collector(patient, rows)
        score["B"] = bench.run(train.batches(), train_seen)
        seen = train_seen.seen
        if any(seen.real[site].count < seen.population[site].count for site in seen.real):
            real_rows = Collector(patient, rows, by_real_rows=True)
            bench.run(train.batches(), real_rows)
            evidence["masked"] = real_rows.seen.real
        given = Collector(patient)
        score["given"] = bench.run(train.as_given(), given)
        if train.apart:
            score["mixed"] = bench.run(train.mixed(), batch_statistics)
            if train.size < FEW:
                score["large"] = bench.run(train.batches(size=4 * train.size), batch_statistics)
        evidence |= {"train": train_seen.seen, "given": given.seen, "dropped": _with_dropout(bench)}
        if held_out is not None:
            held_seen = Collector(patient, rows)
            score["D"] = bench.run(held_out.batches(size=train.size), held_seen)
            evidence["held_out"] = held_seen.seen
            known = groups or {} if train_seen.seen.population else {}  # no norm is reached: nothing shifts
            evidence["groups"] = _by_group(bench, train_seen.seen, score["C"], known)
    else:
        score["B"] = score["A"]
        if held_out is not None:
            score["D"] = score["C"]
    return bench, Evidence(
        training_modules=training,
        stuck_modules=stuck,
        changed_buffers=changed,
        averaged=averaged,
        layers=layers,
        score=score,
        nonfinite_outputs=nonfinite / len(train),
        sizes=train.sizes,
        history=history or History(),
        **evidence,
    )


def unwrapped(model: nn.Module) -> tuple[nn.Module, int | None]:
    """The module inside DDP, DataParallel, torch.compile and AveragedModel; how many networks it averages, if so many
    averaged weights go with the buffers of the last of them (use_buffers off).
    """
    averaged = None
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(model, AveragedModel):
            averaged, model = None if model.use_buffers else int(model.n_averaged), model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model, averaged


def refuse_what_cannot_be_read(model: nn.Module) -> None:
    """ValueError for a module whose layers cannot be seen or do not exist yet."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a TorchScript model hides its layers; hand over the Python module that it was made from")
    lazy = [n for n, m in model.named_modules() if getattr(m, "has_uninitialized_params", bool)()]
    if lazy:
        raise ValueError(
            f"lazy layers have seen no batch yet ({', '.join(lazy[:4])}); run the model on one batch first"
        )


def _plain_pass(bench: Bench, layers: dict[str, Layer]) -> tuple[dict[str, Tensor], list[str], int]:
    """Scores as evaluated by anybody, the buffers that one batch of it changed, outputs that are not finite."""
    before = {name: buffer.clone() for name, buffer in bench.model.named_buffers()}
    first = next(iter(bench.train.batches()))[1]
    with torch.no_grad():
        bench.forward(bench.model, first)
    changed = restore_buffers(bench.model, before)
    result = {"A": bench.on_train(None)}
    nonfinite = bench.nonfinite
    if (on_eval := bench.on_eval(None)) is not None:
        result["C"] = on_eval
    return result, changed, nonfinite


def _with_dropout(bench: Bench) -> SiteMoments:
    """What the layers see when dropout is on, as in training."""
    layers = [m for m in bench.model.modules() if isinstance(m, DROPOUTS) and m.p > 0]
    if not layers:
        return {}
    _switch(layers, True)
    table: SiteMoments = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for limit in (32, 1024):  # dropout behind the last batch norm shows in a few samples that it changes nothing
            on, off = Collector(bench.model), Collector(bench.model)
            bench.run(bench.train.batches(limit=limit), on)
            table = on.seen.population
            if limit > 32:
                break
            _switch(layers, False)
            bench.run(bench.train.batches(limit=limit), off)
            if all(same_bits(table[s].variance_C, off.seen.population[s].variance_C) for s in table):
                return {}
            _switch(layers, True)
    _switch(layers, False)
    return table


def _switch(layers: Iterable[nn.Module], on: bool) -> None:
    for layer in layers:
        layer.training = on


def _by_group(bench: Bench, train: Seen, by_running_N: Tensor, groups: Groups) -> dict[str, Any]:
    """For each division of the evaluation samples: size, accuracy C and input shift of every group."""
    samples = bench.held_out
    result: dict[str, Any] = {}
    if samples is None or not samples.apart or len(by_running_N) != len(samples):
        return result
    for division, number in groups.items():
        group_N = torch.empty(len(samples), dtype=torch.long)
        for positions, batch in samples.batches():
            group_N[positions] = number(batch).cpu().long()
        result[division] = {}
        for group in group_N.unique().tolist():
            members = (group_N == group).nonzero().squeeze(1)
            site, seen = _first_input(bench, samples.composed(members[:GROUP_SAMPLES].split(bench.train.size)))
            result[division][group] = (
                len(members),
                by_running_N[members].double().mean().item(),
                mean_shift(train.population[site], seen),
            )
    return result


class _EnoughError(Exception):
    """The first batch norm was reached: the rest of the forward pass is not needed."""


def _first_input(bench: Bench, batches: Batches) -> tuple[Site, Moments]:
    """The first call site that a forward pass reaches, and what it sees. The pass ends there."""
    found: SiteMoments = {}

    def look(site: Site, x: Tensor) -> None:
        add(found, site, Moments.of(x))
        raise _EnoughError

    with torch.no_grad(), statistics(bench.model, look):
        for _, batch in batches:
            with suppress(_EnoughError):
                bench.forward(bench.model, batch)
    return next(iter(found.items()))


def finite(scores_N: Tensor) -> Tensor:
    """Scores with what is not finite (the loss of a NaN) replaced by the worst that is."""
    good_N = torch.isfinite(scores_N)
    if bool(good_N.all()):
        return scores_N
    worst = scores_N[good_N].min() if bool(good_N.any()) else torch.zeros((), dtype=scores_N.dtype)
    return torch.where(good_N, scores_N, worst)


def gaps(accuracies: dict[str, float]) -> dict[str, float]:
    """Return the normalization gap B - A and, where D is known, the generalization gap B - D."""
    result = {"normalization": accuracies["B"] - accuracies["A"]}
    if "D" in accuracies:
        result["generalization"] = accuracies["B"] - accuracies["D"]
    return result

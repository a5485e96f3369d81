"""Evidence: all that the checks may look at. `measure.gather` collects it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from torch import Tensor

from .collector import Seen, SiteMoments
from .composition import Shares
from .intervals import Difference, design_effect, is_share, paired, standard_error
from .layers import Layer
from .sites import Site

# Passes over samples. A to D: see `gaps`; in recomposed batches. given_A to given_D: the same in the loaders' own
# batches, of which some are kept. mixed: the samples of given_B, shuffled. found_A and found_C: the samples of A and of
# given_C in the mode that the model was handed over in. large: B in larger batches. fair: B in batches of D's size.
# lone, dropped: A by statistics that the cause of this name would leave (see `reproduce`).
Pass = Literal[
    "A",
    "B",
    "C",
    "D",
    "given_A",
    "given_B",
    "given_C",
    "given_D",
    "mixed",
    "found_A",
    "found_C",
    "large",
    "fair",
    "lone",
    "dropped",
]
Scores = dict[Pass, Tensor]
# What divides the samples (camera, subject) -> the number of each sample's group, from a batch.
Groups = Mapping[str, Callable[[Any], Tensor]]


class Group(NamedTuple):
    """Evaluation samples of one camera, subject or other group."""

    samples: int
    score: float
    """Mean score by running statistics (C)."""
    shift: float
    """Mean shift of the first layer's input from that of the training samples, in standard deviations."""


@dataclass(frozen=True)
class History:
    """Facts about the training besides the model; an unknown one stays empty.

    Attributes:
        steps: Optimizer steps taken.
        decayed: Batch norms whose scale has weight decay (`decayed_scales` finds them).
        source: State of the trained network that the model is an average or a partial copy of.
        ranks: The buffers (or whole states) of every rank, where each kept its own.

    Example:
        >>> import normdoctor
        >>> history = normdoctor.History(steps=1000)
    """

    steps: int | None = None
    decayed: frozenset[str] = frozenset()
    source: Mapping[str, Tensor] = field(default_factory=dict)
    ranks: Sequence[Mapping[str, Tensor]] = ()


@dataclass(frozen=True)
class Evidence:
    """All that the checks may look at."""

    training_modules: list[str]
    """Modules that were in training mode when the model was handed over."""
    stuck_modules: list[str]
    """Modules that `eval()` leaves in training mode."""
    changed_buffers: list[str]
    """Buffers that an evaluation pass changes."""
    averaged: int | None
    """Networks averaged, where the model is torch's AveragedModel and its buffers are not averaged."""
    layers: dict[str, Layer]
    score: Scores
    """Score of each sample in each pass that was made."""
    nonfinite_outputs: float
    """Share of training samples whose output or score, by running statistics, is not finite."""
    sizes: Counter[int]
    """Sizes of the training batches."""
    history: History
    assumed: list[str] = field(default_factory=list)
    """Assumptions about model, batches and metric, in short sentences."""
    shares: Shares | None = None
    """Shares of the labels in the training loader's own batches; None where samples have no such labels."""
    inputs: str = ""
    """Difference between raw evaluation and training inputs; empty where they are alike."""
    random_in_eval: str = ""
    """Change of outputs between two passes in eval mode; empty where there is none."""
    batch: dict[Pass, Tensor] = field(default_factory=dict)
    """Number of each score's batch, for the passes in which the samples of a batch share the noise of its
    statistics."""
    sign: float = 1.0
    """-1 where the metric is a loss, whose scores are negated."""
    metric_note: str = ""
    """Note for the reader of the scores; may be empty."""
    metric_is_doubtful: bool = False
    """True if a fault may not show in the scores: then normalization is not cleared of it."""
    samples_per_score: float = 1.0
    """More than 1 where the metric gives one score per batch."""
    worst: float = 0.0
    """Score of a sample whose score is not finite."""
    failure: str = ""
    """Error of torch when the model evaluates as found; empty: it does not fail."""
    settled: dict[str, Tensor] = field(default_factory=dict)
    """Buffers that follow the weights and do not fit them, with the values that do."""
    rejects_one: str = ""
    """Layer that sees one value per channel in a training batch of one, which torch rejects; empty: none."""
    incomparable: str = ""
    """Why B and D cannot be compared; empty where they can."""
    train: Seen = field(default_factory=Seen)
    """Training samples in shuffled batches."""
    given: Seen = field(default_factory=Seen)
    """Training samples in the loader's own batches."""
    masked: SiteMoments = field(default_factory=dict)
    """Training samples, each batch normalized by its real rows alone; empty when no row is absent."""
    dropped: SiteMoments = field(default_factory=dict)
    """Training samples with dropout on; empty where dropout does not reach a batch norm."""
    held_out: Seen | None = None
    """Evaluation samples in shuffled batches; None without evaluation samples."""
    groups: dict[str, dict[int, Group]] = field(default_factory=dict)
    """Division (camera, subject) -> number of the group -> its figures."""
    _differences: dict[tuple[int, ...], tuple[tuple[Tensor, ...], Difference]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Results of `paired`, by the identities of its tensors."""

    def mean(self, name: Pass) -> float:
        """Return the mean score of a pass (accuracy as a fraction)."""
        return self.score[name].double().mean().item()

    def difference(self, a: Pass, b: Pass) -> Difference:
        """Return the mean of pass b - pass a over the same samples, with an interval that respects their batches."""
        batches = [self.batch[name] for name in (a, b) if name in self.batch]
        return self.paired(self.score[a], self.score[b], batches)

    def paired(self, a_N: Tensor, b_N: Tensor, batches: Sequence[Tensor] = ()) -> Difference:
        """Return the mean of b - a over the same samples, scored by this metric (see `intervals.paired`)."""
        given = (a_N, b_N, *batches)
        key = tuple(map(id, given))
        if key not in self._differences:
            found = paired(a_N, b_N, batches=batches, samples_per_score=self.samples_per_score)
            self._differences[key] = (given, found)  # the tensors live on: no other one takes their ids
        return self._differences[key][1]

    def costs_as_much(self, name: Pass) -> bool:
        """Return whether the statistics of pass `name` cost at least half of the gap B - A; True if not measured."""
        return name not in self.score or self.mean("B") - self.mean(name) >= (self.mean("B") - self.mean("A")) / 2

    def standard_error(self, name: Pass) -> float:
        """Return the standard error of a pass's mean score, which respects its batches."""
        score_N = self.score[name]
        batches = [self.batch[name]] if name in self.batch else []
        return standard_error(score_N) * design_effect(score_N, batches)

    @cached_property
    def normalization(self) -> Difference:
        """Normalization gap B - A, with its interval and threshold."""
        return self.difference("A", "B")

    @cached_property
    def own_batches(self) -> Difference | None:
        """Gap in the training loader's own batches, where they score better than the same samples shuffled.

        None where they do not: then `normalization` is what the user sees.
        """
        if not {"given_A", "given_B", "mixed"} <= set(self.score):
            return None
        own = self.difference("given_A", "given_B")
        return own if own.significant and self.difference("mixed", "given_B").significant else None

    @property
    def gap(self) -> float:
        """Normalization gap B - A, in the loader's own batches where these score better than shuffled ones."""
        return (self.own_batches or self.normalization).mean

    @property
    def threshold(self) -> float:
        """Smallest normalization gap that counts."""
        return (self.own_batches or self.normalization).threshold

    @property
    def has_gap(self) -> bool:
        """True if the normalization gap counts."""
        return self.own_batches is not None or self.normalization.significant

    @property
    def costs(self) -> bool:
        """True if running statistics cost score, on the training or on the evaluation samples."""
        return self.has_gap or ("D" in self.score and self.difference("C", "D").significant)

    @cached_property
    def calls(self) -> dict[str, int]:
        """Calls of each layer in one forward pass."""
        return {name: 1 + max((c for n, c in self.train.population if n == name), default=-1) for name in self.layers}

    @property
    def size(self) -> int:
        """Most frequent size of a training batch."""
        return self.sizes.most_common(1)[0][0]

    def values_per_statistic(self, site: Site) -> float:
        """Return the number of values that one batch statistic of a call site is computed from."""
        return self.train.population[site].count / max(1, self.train.passes[site])

    def absent_shares(self, name: str) -> list[float]:
        """Return the share of absent bodies or padding among the rows of each call; empty where that is unknown."""
        shares = []
        for call in range(self.calls[name]):
            everything, real = self.train.population.get((name, call)), self.train.real.get((name, call))
            if everything is None or real is None or not everything.count:
                return []
            shares.append(1 - real.count / everything.count)
        return shares

    @property
    def is_share(self) -> bool:
        """True if the metric lies in [0, 1], as accuracy does."""
        return all(is_share(scores) for scores in self.score.values())

    def points(self, difference: float) -> str:
        """Return a difference of scores in words."""
        if self.is_share:
            return f"{100 * difference:.1f} points"
        return f"{difference:.3g}{' of the loss' if self.sign < 0 else ''}"

    def shown(self, score: float) -> str:
        """Return a score in words."""
        if self.is_share:
            return f"{100 * score:.1f} %"
        return f"loss {-score:.3g}" if self.sign < 0 else f"{score:.3g}"


def gaps(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Return the normalization gap B - A and, where D is known, the generalization gap B - D.

    A: training samples, running statistics. B: the same samples, statistics of their own shuffled batch. C: evaluation
    samples, running statistics. D: evaluation samples, batch statistics. Dropout is off in all of them.
    """
    result = {"normalization": accuracies["B"] - accuracies["A"]}
    if "D" in accuracies:
        result["generalization"] = accuracies["B"] - accuracies["D"]
    return result

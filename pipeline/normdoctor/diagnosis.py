"""Diagnose: measure, check, prove, report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .calling import Forward, Metric
from .causes import (
    Cause,
    GeneralizationLoss,
    Suspicion,
    Tried,
    generalization_losses,
    prove,
    proven_remedy,
    reworded,
    suspicions,
    try_remedies,
    unexplained_share,
    unnamed,
)
from .checks import CHECKS, fired
from .collector import Rows
from .evidence import Evidence, Group, Groups, History, gaps
from .layers import quantized_layers
from .measure import gather
from .moments import distance
from .page import Words, first_screen, rendered
from .repair import Patient
from .samples import LIMIT, random_state_kept
from .sites import Site
from .verdict import verdict

# Gap -> what it is the difference of.
GAPS = {"normalization": "B - A", "generalization": "B - D", "own_batches": "B - A in the loader's own batches"}
FOUR: tuple[Literal["A"], Literal["B"], Literal["C"], Literal["D"]] = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's answer; `as_dict` is doctor.json. Scores are fractions where the metric is accuracy.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> data = [(torch.randn(16, 4) + 3, torch.randint(2, (16,))) for _ in range(4)]
        >>> diagnosis = normdoctor.diagnose(model.eval(), data)
        >>> sorted(diagnosis.accuracies)
        ['A', 'B']
    """

    verdict: str
    accuracies: dict[str, float]
    """Scores A, B and, where there are evaluation samples, C and D (see `evidence.gaps`)."""
    gap: dict[str, float]
    """The normalization gap B - A and, where D is known, the generalization gap B - D. `own_batches`: the normalization
    gap in the training loader's own batches, where these score better than shuffled ones."""
    intervals: dict[str, list[float]]
    """95 % intervals of the normalization gap (B - A) and of D - C."""
    threshold: float
    """Smallest normalization gap that counts."""
    causes: list[Cause]
    suspicions: list[Suspicion]
    rest: list[GeneralizationLoss]
    """Other losses on evaluation samples, where no cause was found."""
    unexplained: float
    """Share of the normalization gap that no cause recovers; 0 without a gap."""
    recalibration: dict[str, dict[str, Any]]
    """Remedy -> scores A and C under its statistics, nothing retrained, and `gain`: the 95 % intervals of what they
    gain."""
    calls: dict[str, int]
    """Calls of each layer in one forward pass."""
    layers: list[dict[str, Any]]
    """One entry per call site: running against population statistics, on training and on evaluation samples."""
    groups: dict[str, dict[int, Group]]
    """Division -> group -> evaluation samples, C, shift of the first layer's input."""
    checks: dict[str, str]
    """Check -> its evidence, empty where it found nothing."""
    samples: dict[str, int]
    """Samples measured on, train and eval."""
    assumed: list[str]
    """Assumptions about the model, its batches and its metric, in short sentences."""
    _is_share: bool = field(default=True, repr=False)
    _remedy: str | None = field(default=None, repr=False)
    _patient: Patient | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        """Return the verdict, the scores and the gap, the remedies, and what was assumed: a line each."""
        words = Words(self._is_share)
        four = ", ".join(f"{name} {words.score(value)}" for name, value in self.accuracies.items())
        gaps = ", ".join(f"{GAPS[name]} {words.points(value)}{words.unit}" for name, value in self.gap.items())
        lines = [self.verdict, f"Scores: {four}. Gap: {gaps}."]
        lines += [f"Remedy of the cause {one.check}: {one.remedy}." for one in self.causes]
        lines += [f"Suspicion {one.check}: {one.remedy}." for one in self.suspicions]
        lines += [f"Besides normalization, {one.check}: {one.remedy}." for one in self.rest]
        if self.assumed:
            lines.append(f"Assumed: {'; '.join(self.assumed)}.")
        return "\n".join(lines)

    @property
    def named(self) -> list[str]:
        """Names of all that was found: what fails with an error, causes, other suspicions, the rest."""
        failing = [one for one in self.suspicions if one.fails]
        others = [one for one in self.suspicions if not one.fails]
        entries: list[Cause | Suspicion | GeneralizationLoss] = [*failing, *self.causes, *others, *self.rest]
        return [entry.check for entry in entries]

    def _repr_html_(self) -> str:
        """Return the page's first screen, as a notebook shows it."""
        return first_screen(self)

    def page(self, path: str | Path) -> Path:
        """Write the diagnosis as a page: one file, without scripts, that needs no network.

        Args:
            path: File to write, such as doctor.html; one of this name is replaced.

        Returns:
            The path.

        Raises:
            ImportError: jinja2 is missing (extra `page`).
        """
        text = rendered(self)
        Path(path).write_text(text, encoding="utf-8")
        return Path(path)

    @property
    def is_share(self) -> bool:
        """True if scores are fractions, as those of accuracy are."""
        return self._is_share

    @property
    def remedy(self) -> str | None:
        """Name of the remedy that is proven to recover most, a key of `recalibration`; None: none is proven."""
        return self._remedy

    def repaired(self, remedy: str | None = None) -> nn.Module:
        """Return a copy of the model with the proven remedy in it, nothing retrained.

        Its scores are those that `recalibration` promises for the remedy. It trains on, exports, and saves and loads by
        its state dict: into the original network where only statistics differ, else by `load_repaired`. The diagnosis
        keeps a copy of the model and one batch for this.

        Args:
            remedy: Name of a remedy in `recalibration`; None: the proven one (`Diagnosis.remedy`).

        Returns:
            The model in eval mode, on the device of the one that was diagnosed, without DDP, torch.compile or
            AveragedModel around it.

        Raises:
            ValueError: No remedy is proven, the name is unknown, or the model cannot take this remedy.

        Example:
            >>> import torch, normdoctor
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
            >>> data = [(torch.randn(16, 4) + 3, torch.randint(2, (16,))) for _ in range(4)]
            >>> diagnosis = normdoctor.diagnose(model.eval(), data)
            >>> model = diagnosis.repaired() if diagnosis.remedy else model
        """
        if self._patient is None:
            raise ValueError("This diagnosis was saved and loaded, without its model: call diagnose again.")
        name = remedy or self._remedy
        if name is None:
            raise ValueError(
                "Nothing to repair: no remedy is proven for this model. Check `Diagnosis.remedy` first, or name one of "
                f"{', '.join(self.recalibration) or 'no remedies'}."
            )
        if name != self._remedy and name not in self.recalibration:
            raise ValueError(
                f"The remedy {name!r} was not tried on this model: choose one of {', '.join(self.recalibration)}."
            )
        with random_state_kept():
            return self._patient.repaired(name)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model out: what applies it to a batch may be any function."""
        return {**vars(self), "_patient": None}

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **{name: value for name, value in vars(self).items() if not name.startswith("_")},
            "causes": [vars(cause) for cause in self.causes],
            "suspicions": [vars(suspicion) for suspicion in self.suspicions],
            "rest": [{**vars(loss), "cumulative": loss.recovered} for loss in self.rest],
        }


def diagnose(
    model: nn.Module,
    train_batches: Iterable[Any],
    eval_batches: Iterable[Any] | None = None,
    *,
    forward: Forward | None = None,
    metric: Metric | str | None = None,
    rows: Rows | None = None,
    groups: Groups | None = None,
    history: History | None = None,
    higher_is_better: bool | None = None,
    samples: int = LIMIT,
    batches: int | None = None,
    next_training: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Find out why a model's batch norms evaluate badly, and prove it.

    The model, its buffers, its modes and all random states stay as they are.

    Args:
        model: Any torch module; DDP, DataParallel, torch.compile and AveragedModel are looked into.
        train_batches: The training loader as it is: its batch size and its order are evidence. Read once. Batches may
            have any structure; those that cannot be divided into samples safely stay whole.
        eval_batches: The evaluation samples, in any batches; None: there are none.
        forward: (model, batch) -> output. None: found by trial from the model's signature and the batch.
        metric: (output, batch) -> score of each sample (N,), or one of the batch. Or the name of one: accuracy,
            segmentation accuracy, label accuracy, iou, dice, detection, mse, mae, cross entropy. None: the first of
            these that fits the output and a part of the batch. `assumed` says what was found.
        rows: (batch, a layer's input (B, C, ...), body slot) -> which rows (B,), or places in them (B, ...), hold
            something real; None: all do.
        groups: Name of a division (camera, subject) -> function of a batch that gives each sample's group (N,).
        history: Facts about the training.
        higher_is_better: False for a loss, whose figures are then negated. None: recognised by scoring the network
            with shuffled weights too; the verdict says what was found.
        samples: Largest number of samples kept of each loader; fewer where they take more than 360 MB.
        batches: Largest number of batches read of each loader. None: as many as hold ten times `samples`.
        next_training: Check -> advice for the next training, in the words of the program that trains; None: torch's.

    Returns:
        The verdict with its causes, suspicions and figures.

    Raises:
        ValueError: In one line: the model cannot be read or copied, the loader holds fewer than two samples, or the
            batches do not fit `forward` and `metric`.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> data = [(torch.randn(16, 4) + 3, torch.randint(2, (16,))) for _ in range(4)]
        >>> diagnosis = normdoctor.diagnose(model.eval(), data, data)
        >>> text = str(diagnosis)
        >>> sorted(diagnosis.gap)
        ['generalization', 'normalization']
    """
    with random_state_kept():
        bench, evidence = gather(
            model,
            train_batches,
            eval_batches,
            forward,
            metric,
            rows,
            groups,
            history,
            higher_is_better,
            samples,
            batches,
        )
        tried = try_remedies(bench, evidence)
        patient = Patient.of(bench, evidence)
    found = fired(CHECKS, evidence)
    found += unnamed(evidence, found, tried)
    own_words = next_training or {}
    causes = reworded(prove(evidence, found, tried), own_words)
    suspected = reworded(suspicions(found, causes, evidence, tried), own_words)
    rest = reworded(generalization_losses(evidence, tried), own_words) if not causes else []
    unexplained = unexplained_share(evidence, causes, found, tried)
    accuracies: dict[str, float] = {name: evidence.mean(name) for name in FOUR if name in evidence.score}
    gap, intervals = gaps(accuracies), {"normalization": evidence.normalization.interval}
    if evidence.own_batches is not None:
        gap["own_batches"], intervals["own_batches"] = evidence.gap, evidence.own_batches.interval
    if "D" in evidence.score:
        intervals["statistics_on_eval"] = evidence.difference("C", "D").interval
    return Diagnosis(
        verdict=verdict(evidence, causes, suspected, rest, unexplained, quantized_layers(model)),
        accuracies=accuracies,
        gap=gap,
        intervals=intervals,
        threshold=evidence.threshold,
        causes=causes,
        suspicions=suspected,
        rest=rest,
        unexplained=unexplained,
        recalibration=_recalibration(evidence, tried),
        calls=evidence.calls,
        layers=_call_sites(evidence),
        groups=evidence.groups,
        checks=dict.fromkeys(CHECKS, "") | {one.name: one.evidence for one in found},
        samples={"train": len(evidence.score["A"]), "eval": len(evidence.score.get("C", ()))},
        assumed=evidence.assumed,
        _is_share=evidence.is_share,
        _remedy=proven_remedy(causes, found),
        _patient=patient,
    )


def _recalibration(evidence: Evidence, tried: Tried) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name, scores in tried.items():
        result[name] = {key: score.double().mean().item() for key, score in scores.items()}
        gains = {key: evidence.paired(evidence.score[key], score) for key, score in scores.items()}
        result[name]["gain"] = {key: gain.interval for key, gain in gains.items()}
    return result


def _call_sites(evidence: Evidence) -> list[dict[str, Any]]:
    """One entry per call site, in the order of the layers and their calls."""
    order = list(evidence.layers)
    sites = sorted(evidence.train.population, key=lambda site: (order.index(site[0]), site[1]))
    return [_call_site(evidence, site) for site in sites]


def _call_site(evidence: Evidence, site: Site) -> dict[str, Any]:
    name, call = site
    layer, shares = evidence.layers[name], evidence.absent_shares(name)
    entry: dict[str, Any] = {
        "layer": name,
        "call": call,
        "values_per_statistic": evidence.values_per_statistic(site),
        "momentum": layer.momentum,
        "updates": layer.updates,
        "window": layer.window,
        "dtype": str(layer.dtype),
        "absent": shares[call] if shares else None,
        "scale_decayed": name in evidence.history.decayed,
    }
    held_out = evidence.held_out.population.get(site) if evidence.held_out else None
    for where, population in (("train", evidence.train.population[site]), ("eval", held_out)):
        if population is not None and layer.running is not None:
            apart = distance(population, layer.running)
            entry[where] = {key: _json_number(value) for key, value in apart._asdict().items()}
    return entry


def _json_number(value: float) -> float | None:
    """None for a number that JSON does not have."""
    return value if math.isfinite(value) else None

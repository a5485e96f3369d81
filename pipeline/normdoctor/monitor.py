"""Monitor: the doctor's figures during training, and one warning, with cause and remedy, where a gap opens.

    monitor = Monitor(model, eval_batches)
    for batch in loader:
        ...
        monitor.step(batch)

Now and then a few training batches are scored on a copy of the model, by running and by batch statistics. A gap that
two such measurements on different batches find is diagnosed once. The training's numbers stay as they are, to the bit.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import nn

from .batches import size_of
from .budget import Budget
from .calling import Forward, Metric, first_line
from .collector import Rows
from .diagnosis import diagnose
from .evidence import History, gaps
from .intervals import Difference
from .layer_checks import TOO_FAST
from .measurement import Announcement, Measurement, NormalizationWarning, passes, significant_together
from .samples import random_state_kept
from .sites import eagerly
from .watched import Watched, generators_kept, kept_apart, synchronized

# Largest share of the training's time that measurements take.
SHARE = 0.02
# No measurement before this step: weights of the first steps move faster than any running statistics.
FIRST_STEP = 100
# Momenta below SLOW or above TOO_FAST are unusual: such a training is measured every UNUSUAL_PAUSE steps from step
# UNUSUAL_FIRST to UNUSUAL_LAST, as far as the budget allows it.
SLOW = 0.01
UNUSUAL_FIRST, UNUSUAL_PAUSE, UNUSUAL_LAST = 50, 20, 200
# Other statistics are measured once their initial values count for less than this.
INITIAL = 0.05
# Steps between a measurement that finds a gap and the one that must confirm it.
PAUSE = 25
# Measurements in a row that hint at a gap, and are then looked at together.
POOLED = 3
# Batches of a measurement: at least LEAST_BATCHES, and up to MOST_BATCHES where these hold few samples; twice as many
# where a momentum is unusual.
LEAST_BATCHES, MOST_BATCHES, SAMPLES = 4, 8, 128
# Samples and batches of the diagnosis, and evaluation samples kept.
DIAGNOSED, DIAGNOSED_BATCHES = 512, 64
# Multiple of its threshold from which a gap is announced without a cause.
UNEXPLAINED = 2.0


@dataclass
class _Collected:
    """Batches collected for the next measurement, or for a diagnosis."""

    wanted: int = 0
    batches: list[Any] = field(default_factory=list)
    is_diagnosis: bool = False


class Monitor:
    """Watch the normalization of a model while it trains, from a loop of any kind.

    Gradients, weights, buffers and random states of the training stay as they are, to the bit: measurements run on a
    copy of the model, which takes the memory of its weights once more. Any error ends the monitoring, not the training.
    DDP, SyncBatchNorm, torch.compile, autocast and AveragedModel work; rank 0 measures alone, without communication.
    FSDP, tensor parallelism, DeepSpeed's third stage and TorchScript are not supported: the monitor then stays off.

    Args:
        model: The model as it will be evaluated: the one in training, or its AveragedModel.
        eval_batches: Evaluation samples for C and D, read at the first measurement, at most DIAGNOSED; None: there are
            none, or `add_eval` brings them. Take a loader of its own, or a list.
        forward: As in `diagnose`.
        metric: As in `diagnose`.
        rows: As in `diagnose`.
        history: As in `diagnose`.
        higher_is_better: As in `diagnose`.
        share: Largest share of the training's time that measurements take. A training counts as 600 steps long at
            least, and as 1,500 while a measurement hints at a gap, so a shorter one may spend more. The diagnosis
            that is announced comes on top, and so does one that does not confirm an evident gap.
        every: Steps from one measurement to the next, whatever they cost; None: as `share` allows.

    Attributes:
        steps: Steps seen.
        measurements: All so far.
        announcement: The warning, once it was given.
        off: Why nothing is measured; empty while the monitor works.

    Raises:
        ValueError: `share` is not between 0 and 1, or `every` is below 1.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> monitor = normdoctor.Monitor(model)
        >>> for x, y in [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(4)]:
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     measurement = monitor.step((x, y))
    """

    def __init__(
        self,
        model: nn.Module,
        eval_batches: Iterable[Any] | None = None,
        *,
        forward: Forward | None = None,
        metric: Metric | str | None = None,
        rows: Rows | None = None,
        history: History | None = None,
        higher_is_better: bool | None = None,
        share: float = SHARE,
        every: int | None = None,
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share {share:g} is invalid: must be between 0 and 1")
        if every is not None and every < 1:
            raise ValueError(f"every {every} is too small: must be at least 1")
        self.steps = 0
        self.measurements: list[Measurement] = []
        self.announcement: Announcement | None = None
        self.off = ""
        self.every = every
        self.rows, self.history, self.higher_is_better = rows, history, higher_is_better
        # A function may be a loss: until the diagnosis knows, a gap of either sign is looked at.
        self.two_sided = callable(metric) and higher_is_better is None
        self._model, self._usage = model, (forward, metric)
        self._watched: Watched | None = None
        self._eval_batches, self._held_out, self._held_out_samples = eval_batches, [], 0  # type: ignore[var-annotated]
        self._budget, self._collected = Budget(share), _Collected()
        self._in_a_row = self._hints = 0  # significant measurements, and those that hint at a gap
        self._suspect: tuple[float, nn.Module] | None = None  # a copy of the model where the gap was largest
        self._not_before = UNUSUAL_FIRST
        self._is_unusual: bool | None = None  # known at the first look at the layers
        self._is_fast = False  # running statistics are those of the last batches: a gap comes and goes
        self._unconfirmed = 0  # diagnoses that found nothing

    @property
    def seconds(self) -> float:
        """Time of all measurements, and of diagnoses that found nothing."""
        return self._budget.own

    def __str__(self) -> str:
        """Return the state in one line."""
        if self.off:
            return f"normdoctor.Monitor is off: {self.off}"
        share = 100 * self.seconds / max(1e-9, self._budget.training()) if self.steps else 0.0
        last = ", ".join(f"{k} {v:.3g}" for k, v in self.measurements[-1].scores.items()) if self.measurements else "-"
        return (
            f"{self.steps} steps, {len(self.measurements)} measurements, {share:.2f} % of the time; latest: {last}; "
            f"{'announced at step ' + str(self.announcement.step) if self.announcement else 'no gap announced'}"
        )

    def step(self, batch: Any) -> Measurement | None:
        """Count a training step, and measure if it is time.

        Args:
            batch: The batch that was just trained on, as the loader gave it.

        Returns:
            The measurement, in the steps that complete one.
        """
        if self.off:
            return None
        if self.steps == 0:
            self._begin()
        self.steps += 1
        if not self._collected.wanted and not self._is_due():
            return None
        return self._guarded(batch)

    def add_eval(self, batch: Any) -> None:
        """Keep an evaluation batch for C and D; from DIAGNOSED samples on, no more are kept."""
        if self.off or self._held_out_samples >= DIAGNOSED:
            return
        begin = time.perf_counter()
        try:
            self._keep_eval(batch)
        except Exception as error:  # noqa: BLE001 - the training goes on, whatever fails here
            self._stop(error)
        self._budget.own += time.perf_counter() - begin

    def _begin(self) -> None:
        self._budget.begin = time.perf_counter()
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            self.off = "rank 0 measures"

    def _guarded(self, batch: Any) -> Measurement | None:
        """Collect a batch, and measure or diagnose when there are enough; an error ends the monitoring."""
        begin, announced = time.perf_counter(), self._budget.announced
        try:
            if self._watched is None:
                self._watched = Watched(self._model, *self._usage)
            synchronized(self._watched.inner)
            begin = time.perf_counter()
            with random_state_kept():
                return self._collect(self._watched, batch)
        except Exception as error:  # noqa: BLE001 - the training goes on, whatever fails here
            self._stop(error)
            return None
        finally:
            self._budget.own += time.perf_counter() - begin - (self._budget.announced - announced)
            self._warn()

    def _stop(self, error: Exception) -> None:
        self.off = f"{type(error).__name__}: {first_line(error)}"
        self._watched = self._suspect = None
        self._held_out.clear()
        warnings.warn(f"normdoctor.Monitor is off: {self.off}", NormalizationWarning, stacklevel=4)

    def _is_due(self) -> bool:
        if self.every is not None:
            return self.steps % self.every == 0
        if self.steps < self._not_before:
            return False
        if self._is_unusual is None:
            return True
        pursued = bool(self._hints) or (self._is_unusual and self.steps <= UNUSUAL_LAST)
        return self._budget.allows_measurement(self.steps, pursued and self.announcement is None)

    def _collect(self, watched: Watched, batch: Any) -> Measurement | None:
        """Add a batch to those of the next measurement or diagnosis, and make it when there are enough."""
        size = max(1, size_of(batch))
        if not self._collected.wanted:
            if not self._is_ready(watched):
                return None
            most = 2 * MOST_BATCHES if self._is_unusual else MOST_BATCHES
            self._collected = _Collected(min(most, max(LEAST_BATCHES, -(-SAMPLES // size))))
        self._collected.batches.append(kept_apart(batch))
        if len(self._collected.batches) < self._collected.wanted:
            return None
        batches, is_diagnosis = self._collected.batches, self._collected.is_diagnosis
        self._collected = _Collected()
        if is_diagnosis:
            self._in_a_row = self._hints = 0
            self._diagnose(watched, batches)
            return None
        measurement = self._measure(watched, batches)
        self._in_a_row = self._in_a_row + 1 if measurement.is_significant else 0
        self._hints = self._hints + 1 if measurement.hints else 0
        self._not_before = self.steps + (PAUSE if self._hints else UNUSUAL_PAUSE if self._is_unusual else 0)
        self._keep_suspect(watched, measurement)
        found = self._in_a_row >= 2 or self._is_found_together()
        if self._hints >= POOLED:
            self._hints = 0
        if found and self.announcement is None and self._is_worth_a_diagnosis(watched, batches):
            wanted = min(DIAGNOSED_BATCHES, max(2 * LEAST_BATCHES, DIAGNOSED // size))
            self._collected = _Collected(wanted, batches, is_diagnosis=True)
        return measurement

    def _is_found_together(self) -> bool:
        """Return whether several measurements find a gap: those that hint at one in a row, or all of a fast one."""
        if self._is_fast and len(self.measurements) >= POOLED and significant_together(self.measurements):
            return True
        return self._hints >= POOLED and significant_together(self.measurements[-POOLED:])

    def _is_worth_a_diagnosis(self, watched: Watched, batches: list[Any]) -> bool:
        """Return whether a gap is evident, or a diagnosis fits into the budget: one that finds nothing costs much."""
        if self.every is not None or self._budget.allows_diagnosis(self.steps):
            return True
        return not self._unconfirmed and (bool(self._is_unusual) or not watched.only_lags(batches))

    def _keep_suspect(self, watched: Watched, measurement: Measurement) -> None:
        """Keep the model of the largest gap in a row: running statistics that are too fast are wrong now and then."""
        if self.announcement is not None or not (measurement.hints or self._is_fast):
            self._suspect = None
        elif measurement.hints and (self._suspect is None or measurement.excess > self._suspect[0]):
            self._suspect = measurement.excess, watched.subject()

    def _is_ready(self, watched: Watched) -> bool:
        """Return whether running statistics can be measured yet; those of an average, once it averages something."""
        if not watched.is_started:
            self._not_before = max(self._not_before, self.steps + PAUSE)
            return False
        if self._is_unusual is None:
            momenta = watched.momenta
            self._is_fast = any(m > TOO_FAST for m in momenta)
            self._is_unusual = self._is_fast or any(m < SLOW for m in momenta)
            settled = [math.log(INITIAL) / math.log(1 - m) for m in momenta if SLOW <= m < 1]
            if not self._is_unusual and self.every is None:
                self._not_before = math.ceil(max([FIRST_STEP, *settled]))
        return self.every is not None or self.steps >= self._not_before

    def _measure(self, watched: Watched, batches: list[Any]) -> Measurement:
        begin = time.perf_counter()
        self._read_eval()
        sign = -1.0 if self.higher_is_better is False else 1.0
        most = len(batches)
        with eagerly():
            scores = watched.measure(batches, self._held_out[:most], sign)
        if not watched.has_layers():
            self.off = "the model has no layer with statistics of batches"
        excess = max(self._excess(one) for one in (scores.cost, scores.cost_on_eval) if one is not None)
        measurement = Measurement(
            self.steps, scores.mean, gaps(scores.mean), scores.cost, excess, time.perf_counter() - begin
        )
        self._budget.measurement = measurement.seconds
        self.measurements.append(measurement)
        return measurement

    def _excess(self, cost: Difference) -> float:
        """Return a gap as a multiple of its threshold."""
        return (abs(cost.mean) if self.two_sided else cost.mean) / cost.threshold

    def _diagnose(self, watched: Watched, batches: list[Any]) -> None:
        """Name the cause, and announce it if the diagnosis confirms the gap."""
        begin = time.perf_counter()
        forward, metric = self._usage
        subject = watched.subject() if self._suspect is None else self._suspect[1]
        self._suspect = None
        with eagerly():
            diagnosis = diagnose(
                subject,
                batches,
                self._held_out or None,
                forward=forward,
                metric=metric,
                rows=self.rows,
                history=self.history,
                higher_is_better=self.higher_is_better,
                samples=DIAGNOSED,
            )
        cost = diagnosis.gap.get("own_batches", diagnosis.gap["normalization"])
        found = bool(diagnosis.causes) or cost > UNEXPLAINED * diagnosis.threshold
        # Statistics of the last batch alone are right or wrong by chance: all measurements together are the proof.
        erratic = self._is_fast and not found and bool(diagnosis.suspicions) and significant_together(self.measurements)
        if erratic or (found and (self._is_unusual or not passes(diagnosis))):
            seconds = time.perf_counter() - begin
            self._budget.announced = seconds
            mean = sum(one.gap["normalization"] for one in self.measurements) / len(self.measurements)
            self.announcement = Announcement(
                self.steps, self.measurements[-1], diagnosis, seconds, mean if erratic else None
            )
        else:
            self._unconfirmed += 1

    def _warn(self) -> None:
        """Warn once, outside of the guard: a filter may turn warnings into errors."""
        if self.announcement is not None and self.announcement.step == self.steps:
            warnings.warn(str(self.announcement), NormalizationWarning, stacklevel=4)

    def _read_eval(self) -> None:
        """Keep the evaluation samples that were passed, once."""
        if self._eval_batches is None:
            return
        loader, self._eval_batches = self._eval_batches, None
        with generators_kept(loader):
            for batch in loader:
                self._keep_eval(batch)
                if self._held_out_samples >= DIAGNOSED:
                    break

    def _keep_eval(self, batch: Any) -> None:
        self._held_out.append(kept_apart(batch))
        self._held_out_samples += size_of(batch)

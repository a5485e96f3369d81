"""Budget of a monitor: the time of the training, the monitor's own in it, and what it may still spend."""

from __future__ import annotations

import time
from dataclasses import dataclass

# A training counts as at least this many steps long, so that its first measurements come early; as PURSUED_STEPS, and
# as PURSUED_SECONDS of own time, where a measurement hints at a gap or a momentum is unusual.
LEAST_STEPS, PURSUED_STEPS = 600, 1500
PURSUED_SECONDS = 3.0
# Cost of the first measurement in training steps, until it is known.
FIRST_COST = 6.0
# Cost of a diagnosis in measurements.
DIAGNOSIS_COST = 15.0


@dataclass
class Budget:
    """Time of the training and of the monitor in it, in seconds.

    Attributes:
        share: Largest share of the training's time that the monitor takes.
        begin: Time at which the training began.
        own: Time of measurements, and of diagnoses that found nothing.
        announced: Time of the diagnosis that was announced, which comes on top.
        measurement: Time of the latest measurement; None before the first.
    """

    share: float
    begin: float = 0.0
    own: float = 0.0
    announced: float = 0.0
    measurement: float | None = None

    def training(self) -> float:
        """Return the seconds that the training itself took so far."""
        return time.perf_counter() - self.begin - self.own - self.announced

    def allows_measurement(self, steps: int, pursued: bool) -> bool:
        """Return whether a measurement may be made after so many steps; `pursued`: there is a hint at a gap."""
        per_step = self.training() / steps
        cost = FIRST_COST * per_step if self.measurement is None else self.measurement
        if pursued and self.own + cost <= PURSUED_SECONDS:
            return True
        return self._allows(cost, steps, PURSUED_STEPS if pursued else LEAST_STEPS)

    def allows_diagnosis(self, steps: int) -> bool:
        """Return whether a diagnosis fits; its cost is estimated from that of a measurement."""
        return self._allows(DIAGNOSIS_COST * (self.measurement or 0.0), steps, LEAST_STEPS)

    def _allows(self, cost: float, steps: int, least: int) -> bool:
        training = self.training()
        return self.own + cost <= self.share * max(training, least * training / steps)

"""Records of a monitor: what it measured, what it announced, and what is not worth an announcement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .diagnosis import Diagnosis
from .intervals import Difference
from .moments import Distance

# Share of what is significant from which a measurement hints at a gap.
HINT = 0.5
# Causes that pass by themselves where statistics are near those of the samples.
LAGGING = ("stale", "foreign")


class NormalizationWarning(UserWarning):
    """A normalization gap has opened during training.

    Example:
        >>> import warnings, normdoctor
        >>> warnings.simplefilter("error", normdoctor.NormalizationWarning)  # end the training there
        >>> warnings.simplefilter("default", normdoctor.NormalizationWarning)
    """


@dataclass(frozen=True)
class Measurement:
    """Scores at one step of the training.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> normdoctor.Monitor(model).measurements
        []
    """

    step: int
    scores: dict[str, float]
    """A, B and, where there are evaluation samples, C and D: means over the latest batches."""
    gap: dict[str, float]
    """`normalization` B - A and, where D is known, `generalization` B - D."""
    cost: Difference
    """B - A with its interval and threshold."""
    excess: float
    """Cost of running statistics on the training or the evaluation samples, as a multiple of what is significant."""
    seconds: float
    """Time that it took."""

    @property
    def is_significant(self) -> bool:
        """True if running statistics cost score."""
        return self.excess > 1

    @property
    def hints(self) -> bool:
        """True if they may."""
        return self.excess > HINT


@dataclass(frozen=True)
class Announcement:
    """The one warning of a training.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
        >>> normdoctor.Monitor(model).announcement is None
        True
    """

    step: int
    measurement: Measurement
    """The latest before the diagnosis."""
    diagnosis: Diagnosis
    seconds: float
    """Time of the diagnosis, which comes on top of the monitor's share."""
    erratic: float | None = None
    """Mean gap over all measurements, where running statistics are right or wrong by chance; None where they are
    not."""

    def __str__(self) -> str:
        """Return verdict and remedy in one line."""
        remedies = [one.remedy for one in self.diagnosis.causes] + [one.remedy for one in self.diagnosis.suspicions]
        remedy = "".join(f" Remedy: {text}." for text in remedies[:1])
        mean = "" if self.erratic is None else f"the gap comes and goes, {self.erratic:.3g} on average. "
        return f"normdoctor at step {self.step}: {mean}{self.diagnosis.verdict}{remedy}"


def passes(diagnosis: Diagnosis) -> bool:
    """Return whether statistics only lag a little behind weights that move fast, which is over soon.

    No layer is beyond the limits then, and the one cause is that fresh statistics score better.
    """
    if any(cause.check not in LAGGING for cause in diagnosis.causes):
        return False
    apart = [entry["train"] for entry in diagnosis.layers if "train" in entry]
    known = [Distance(one["shift"], one["ratio"]) for one in apart if None not in one.values()]
    return len(known) == len(apart) and not any(one.beyond_limit for one in known)


def significant_together(latest: list[Measurement]) -> bool:
    """Return whether measurements find a gap together: their batches differ, so their errors are independent."""
    return sum(one.excess for one in latest) > math.sqrt(len(latest))

"""Records: a check, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .evidence import Evidence
from .intervals import Difference

OF_THE_CHECK = "of the check"
# What cures statistics that do not fit the weights, nothing retrained.
RECOMPUTE = (
    "recompute the running statistics over the training samples in shuffled batches (torch.optim.swa_utils.update_bn)"
)


class Advice(NamedTuple):
    """Advice about a finding."""

    now: str = ""
    """With the trained model, nothing retrained; empty: nothing helps."""
    next_training: str = ""
    """When it is trained again; empty: nothing has to change."""

    @property
    def text(self) -> str:
        """Both in one sentence."""
        later = f"when you train again: {self.next_training}" if self.next_training else ""
        return "; ".join(part for part in (f"now: {self.now}" if self.now else "", later) if part)


@dataclass(frozen=True)
class Finding:
    """The evidence that a check found."""

    evidence: str
    """In plain words."""
    advice: Advice | None = None
    """None: the remedy's advice."""
    remedy: str | None = OF_THE_CHECK
    """Name of the remedy that would prove it, where it is not the check's own; None: only new training can."""
    is_fact: bool | None = None
    """True if it is a fault even where nothing proves it; None: as in the check's record."""
    fails: bool = False
    """True if it ends training or evaluation with an error."""
    gain: Difference | None = None
    """Score at stake, where it was measured without a remedy."""


@dataclass(frozen=True)
class Check:
    """One check. To add one: write its function, and add its record to `checks.CHECKS`.

    Attributes:
        run: A pure function of the evidence; None: it found nothing.
        label: What it looks for, in one sentence.
        remedy: Name in `remedies.REMEDIES` of the remedy that proves it; None: only new training can.
        is_fact: Whether a finding is a fault even where it costs nothing measurable, or where no remedy proves it: it
            is then reported as a suspicion.
        supersedes: Checks that are no second cause where this one explains as much.
    """

    run: Callable[[Evidence], Finding | None]
    label: str
    remedy: str | None = None
    is_fact: bool = True
    supersedes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fired:
    """A check that found something, by its name."""

    name: str
    check: Check
    finding: Finding

    @property
    def evidence(self) -> str:
        """The evidence, in plain words."""
        return self.finding.evidence

    @property
    def is_fact(self) -> bool:
        """True if it is a fault even where nothing proves it."""
        return self.check.is_fact if self.finding.is_fact is None else self.finding.is_fact

    @property
    def remedy(self) -> str | None:
        """Name of the remedy that would prove it."""
        return self.check.remedy if self.finding.remedy == OF_THE_CHECK else self.finding.remedy


def listed(names: list[str], most: int = 4) -> str:
    """Return the first few names, and how many there are besides."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

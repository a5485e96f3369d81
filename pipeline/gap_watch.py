"""Watch the normalization of a training, and report once where a gap opens: on the screen and in the ledger."""

from __future__ import annotations

import sys
import warnings

from torch import nn

from pipeline.config import Config
from pipeline.data.clips import Batch
from pipeline.doctor import patient
from pipeline.normdoctor import Monitor, NormalizationWarning


class GapWatch:
    """A monitor of one of our networks, which warns in one line. No number of the training changes.

    Args:
        config: Settings of the run.
        model: The network as it will be evaluated: the one in training, or its AveragedModel.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        self.run = config.out.name
        # For the whole process: a filter of each step would let every other warning be shown again in each step.
        warnings.filterwarnings("ignore", category=NormalizationWarning)
        self.monitor = Monitor(
            model, forward=patient.forward, metric=patient.correct, rows=patient.rows, higher_is_better=True
        )
        self.is_reported = False

    def step(self, batch: Batch) -> None:
        """Count an optimizer step.

        Args:
            batch: Its last micro-batch; an empty one, of a last step of few clips, is not looked at.
        """
        if not len(batch.label_N):
            return
        self.monitor.step(batch)

    def record(self) -> dict[str, str]:
        """Return the entry of the epoch's line in the ledger, and print it: once, in the epoch of the warning."""
        if self.monitor.announcement is None or self.is_reported:
            return {}
        self.is_reported = True
        words = f"{self.monitor.announcement} Prove it on all clips: skelnorm doctor {self.run}"
        print(f"warning: {words}", file=sys.stderr)
        return {"warning": words}


def watching(config: Config, model: nn.Module) -> GapWatch | None:
    """Return the watch over a training; None if it is switched off, or the network has no norm that could open a gap.

    Args:
        config: Settings of the run.
        model: As in `GapWatch`.
    """
    return GapWatch(config, model) if config.train.monitor and config.norm.kind != "none" else None

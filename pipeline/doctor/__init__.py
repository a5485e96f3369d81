"""The norm doctor: find out why batch norms evaluate badly, prove it, and find what helps.

    python -m pipeline.doctor RUN
    diagnosis = diagnose(model, train_batches, eval_batches)

`pipeline.normdoctor` does the work for any torch module; this package makes run folders its patients. `patient` loads
a run folder, `repair` writes the repaired one, `probes` trains copies on request; `pipeline.pages.diagnosis`
is the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.public import lazy_names

if TYPE_CHECKING:
    from pipeline.normdoctor import Cause, Diagnosis, GeneralizationLoss, History, Suspicion, decayed_scales, diagnose

__all__ = ["Cause", "Diagnosis", "GeneralizationLoss", "History", "Suspicion", "decayed_scales", "diagnose"]

__getattr__, __dir__ = lazy_names("pipeline", {"normdoctor": tuple(__all__)})

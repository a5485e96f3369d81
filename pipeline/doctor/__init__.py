"""The norm doctor: why does BatchNorm evaluate badly, proven, and what helps.

    python -m pipeline.doctor RUN
    diagnosis = diagnose(model, train_batches, eval_batches)

Flow: `samples` (read a loader of any kind) -> `evidence` (measure) -> `checks` (pure functions of it) -> `remedies`
(each proven by a re-evaluation) -> `diagnosis` (rank, and say it). `runs` makes a run folder of ours a patient, `fix`
writes the repaired run, `training` trains copies of one on request, `page` is the report.
"""

from pipeline.normdoctor import Cause, Diagnosis, GeneralizationLoss, History, Suspicion, decayed_scales, diagnose

__all__ = ["Cause", "Diagnosis", "GeneralizationLoss", "History", "Suspicion", "decayed_scales", "diagnose"]

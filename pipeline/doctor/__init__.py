"""The norm doctor: why does BatchNorm evaluate badly, proven, and what helps.

    python -m pipeline.doctor RUN
    diagnosis = diagnose(model, train_batches, eval_batches)

Flow: `evidence` (measure) -> `checks` (pure functions of it) -> `remedies` (each proven by a re-evaluation).
"""

from pipeline.doctor.diagnosis import Cause, Diagnosis, diagnose

__all__ = ["Cause", "Diagnosis", "diagnose"]

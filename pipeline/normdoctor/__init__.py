"""The norm doctor for any torch module: measure, check, prove, report.

    diagnosis = diagnose(model, train_batches, eval_batches)

The package imports torch, numpy, the standard library and itself. Reading order: `moments` (mean and variance),
`sites` (call sites of batch norms), `collector` (what they see), `sources` (what they can normalize by), `samples` (a
loader of any kind), `evidence` (measure), `checks` (pure functions of the evidence), `remedies` (each tried by a
re-evaluation), `diagnosis` (rank the causes and write the verdict).
"""

from .diagnosis import Cause, Diagnosis, Suspicion, diagnose
from .evidence import History
from .layers import decayed_scales

__all__ = ["Cause", "Diagnosis", "History", "Suspicion", "decayed_scales", "diagnose"]

"""The norm doctor for any torch module: measure, check, prove, report.

    diagnosis = diagnose(model, train_batches, eval_batches)

The package imports torch, numpy, the standard library and itself. Reading order: `moments` (mean and variance),
`memory` and `effects` (where a layer keeps running statistics), `sites` (call sites of batch norms), `collector` (what
they see), `sources` (what they can normalize by), `batches` and `samples` (a loader of any kind), `calling` and
`metrics` (how a model is run and scored), `evidence` (what is known), `checks` (pure functions of the evidence),
`remedies` (each tried by a re-evaluation), `diagnosis` (rank the causes and write the verdict), `forms` and `repair`
(the model with a remedy in it).

Versions are semantic: the names in `__all__` with their arguments and attributes are the interface. A name that goes
warns before, for a minor version at least (`deprecation`).
"""

from typing import Any

from . import deprecation
from .causes import Cause, GeneralizationLoss, Suspicion
from .diagnosis import Diagnosis, diagnose
from .evidence import History
from .layers import decayed_scales
from .masking import MaskedBatchNorm, convert, counting
from .measurement import Announcement, Measurement, NormalizationWarning
from .monitor import Monitor
from .recalibration import recalibrate
from .repair import load_repaired

__version__ = "0.2.0"
__all__ = [
    "Announcement",
    "Cause",
    "Diagnosis",
    "GeneralizationLoss",
    "History",
    "MaskedBatchNorm",
    "Measurement",
    "Monitor",
    "NormalizationWarning",
    "Suspicion",
    "convert",
    "counting",
    "decayed_scales",
    "diagnose",
    "load_repaired",
    "recalibrate",
]


def __getattr__(name: str) -> Any:
    """Return what a deprecated name stands for."""
    return deprecation.renamed(__name__, name, globals())

"""Train on one HDF5 file and report what normalization does to the model.

    import pipeline

    run = pipeline.Run("runs/bn-loop")                     # settings, data, network and figures of a run folder
    diagnosis, split = pipeline.diagnose_run("runs/bn-loop", "auto")
    diagnosis = pipeline.diagnose(model, train_batches, eval_batches)    # any torch module
    answer = pipeline.load("runs/bn-loop")("S001C001P001R001A023.skeleton")

Data flow: `data` (HDF5 to batches) -> `models` with a norm of `norms` -> `train` -> run folder -> `doctor`, `page`.
Tensor names carry their shape: N clips, M bodies (2), T frames, V joints, C channels, K classes, B = N*M rows.
`import pipeline` loads nothing else: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.public import lazy_names

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.doctor.patient import diagnose_run
    from pipeline.normdoctor import Diagnosis, diagnose
    from pipeline.predictor import Answer, Predictor, load
    from pipeline.run_folder import Metadata, Run

__all__ = ["Answer", "Config", "Diagnosis", "Metadata", "Predictor", "Run", "diagnose", "diagnose_run", "load"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "config": ("Config",),
        "doctor.patient": ("diagnose_run",),
        "normdoctor": ("Diagnosis", "diagnose"),
        "predictor": ("Answer", "Predictor", "load"),
        "run_folder": ("Metadata", "Run"),
    },
)

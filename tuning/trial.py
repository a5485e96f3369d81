"""The work of a trial's process: train as pipeline.train does, resume from the checkpoint, leave result.json.

FOLDER/order.json holds the TrialSpec. The trials of a search never read the test split; those of a study read it once,
after the last epoch. Exit codes are those of pipeline.train.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

from preprocessing import exits
from tuning.trial_spec import TrialSpec

SPEC, RESULT = "order.json", "result.json"


def limit_memory(gigabytes: float) -> None:
    """Limit the memory that this process and each of its ranks may allocate; 0 means no limit."""
    if gigabytes:
        limit = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def run_trial(folder: Path, spec: TrialSpec) -> None:
    """Train in `folder` and write result.json: the summary and the re-evaluations that were requested."""
    import torch

    from pipeline import distributed, train
    from pipeline.config import from_dict
    from pipeline.run_folder import Run
    from preprocessing import files
    from preprocessing.hdf5 import check_once
    from tuning.re_evaluations import re_evaluate
    from tuning.space import nested

    torch.set_num_threads(spec.threads)
    config = from_dict(nested({**spec.settings, "out": str(folder), "wandb": "off"}))
    if config.fast_start:
        check_once(config.data, folder.parent)
    Run.claim(config)
    if config.nproc > 1:
        distributed.launch(train.run, (config, spec.read_test), config.nproc, config.rank_timeout)
    else:
        train.run(config, read_test=spec.read_test)
    summary = json.loads((folder / "summary.json").read_text())
    found = re_evaluate(folder, spec.re_evaluations, spec.read_test) if spec.re_evaluations else {}
    files.publish_json(folder / RESULT, {"summary": summary, "variants": found})


def main(folder: Path) -> int:
    """Do the whole work of a trial's process; return the exit code."""
    spec = TrialSpec.from_json(json.loads((folder / SPEC).read_text()))
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)  # for the ranks, which start as fresh interpreters
    limit_memory(spec.memory)

    try:
        run_trial(folder, spec)
    except Exception as error:
        return exits.report(error)
    return 0

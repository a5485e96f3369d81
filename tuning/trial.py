"""The work of a trial's process: train as pipeline.train does, resume from the checkpoint, leave result.json.

FOLDER/order.json holds the TrialSpec. The trials of a search never read the test split; those of a study read it once,
after the last epoch. Exit codes are those of pipeline.train.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
from pathlib import Path

from pipeline.nodes import Node
from preprocessing import exits
from tuning.trial_spec import TrialSpec

SPEC, RESULT, DROPPED = "order.json", "result.json", "dropped"


def limit_memory(gigabytes: float) -> None:
    """Limit the memory that this process and each of its ranks may allocate; 0 means no limit."""
    if gigabytes:
        limit = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def run_trial(
    folder: Path, spec: TrialSpec, node: Node | None = None, listener: socket.socket | None = None
) -> None:  # fmt: skip
    """Train in `folder` and write result.json: the summary and the re-evaluations that were requested.

    Args:
        folder: The run folder.
        spec: What to train.
        node: This node, if the ranks train on several; node 0 writes all files.
        listener: On node 0, the socket that is bound to the node's port.
    """
    import torch

    from pipeline import launcher, train
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
    first = node is None or node.number == 0
    if first:
        if (folder / DROPPED).exists():
            drop_checkpoints(folder)
        Run.claim(config)  # before any rank is there: all of them meet on every start
    if node is not None:
        # A launcher cannot know whether ranks that it does not see are at work: no rank is silent here.
        ranks = config.nproc // node.count
        launcher.launch(train.run, (config, spec.read_test), ranks, 0, node, listener)
    elif config.nproc > 1:
        launcher.launch(train.run, (config, spec.read_test), config.nproc, config.rank_timeout)
    else:
        train.run(config, read_test=spec.read_test)
    if not first:
        return
    summary = json.loads((folder / "summary.json").read_text())
    found = re_evaluate(folder, spec.re_evaluations, spec.read_test) if spec.re_evaluations else {}
    files.publish_json(folder / RESULT, {"summary": summary, "variants": found})


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a trial; one that goes on later starts over.

    Files and pointer cannot go in one step: a mark stands until both are gone, so that `run_trial` completes it after a
    kill.
    """
    if not folder.is_dir():
        return
    with contextlib.suppress(OSError):  # a full disk is a reason to go on
        (folder / DROPPED).touch()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "checkpoint.json").unlink(missing_ok=True)
    (folder / DROPPED).unlink(missing_ok=True)


def main(folder: Path, node: Node | None = None, listener: socket.socket | None = None) -> int:
    """Do the whole work of a trial's process; return the exit code."""
    spec = TrialSpec.from_json(json.loads((folder / SPEC).read_text()))
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)  # for the ranks, which start as fresh interpreters
    limit_memory(spec.memory)

    try:
        run_trial(folder, spec, node, listener)
    except Exception as error:
        return exits.report(error)
    return 0

"""One trial, in a process of its own: a training as pipeline.train does it, resumed from its checkpoint.

FOLDER/order.json says what to train. A search's trials never see the test split; a study's read it once, when all is
done. Exit codes are those of pipeline.train.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

from preprocessing import exits

ORDER, RESULT = "order.json", "result.json"


def limit_memory(gigabytes: float) -> None:
    """Let this process and its ranks hold so much memory of their own each; 0: as much as there is."""
    if gigabytes:
        limit = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def run(folder: Path, order: dict[str, Any]) -> None:
    """Train in `folder` and leave result.json: the summary, and the variants that were asked for."""
    import torch

    from pipeline import distributed, train
    from pipeline.config import as_dict, from_dict
    from preprocessing import files
    from tuning.space import nested
    from tuning.variants import evaluate_variants

    torch.set_num_threads(order["threads"])
    config = from_dict(nested(order["settings"] | {"out": str(folder), "wandb": "off"}))
    train.claim(config)
    if config.nproc > 1:
        distributed.launch(train.main_of_rank, (as_dict(config), order["test"]), config.nproc)
    else:
        train.run(config, read_test=order["test"])
    summary = json.loads((folder / "summary.json").read_text())
    variants = evaluate_variants(folder, order["variants"], order["test"]) if order["variants"] else {}
    files.publish_json(folder / RESULT, {"summary": summary, "variants": variants})


def main(folder: Path) -> int:
    """The whole work of a trial's process; returns the exit code."""
    order = json.loads((folder / ORDER).read_text())
    os.environ["OMP_NUM_THREADS"] = str(order["threads"])  # for ranks, which begin anew
    limit_memory(order["memory"])
    from pipeline import distributed, train

    try:
        run(folder, order)
    except (ValueError, OSError, distributed.WorkerDied, train.NonFiniteLoss) as error:
        return exits.report(error)
    return 0

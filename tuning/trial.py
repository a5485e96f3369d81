"""One trial, in a process of its own: a training as pipeline.train does it, resumed from its checkpoint.

FOLDER/order.json says what to train. A search's trials never see the test split; a study's read it once, when all is
done. Exit codes are those of pipeline.train.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from preprocessing import exits

ORDER, LOG, RESULT = "order.json", "log.txt", "result.json"


def end_with_parent() -> None:
    """End this process and its ranks as soon as the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def limit_memory(gigabytes: float) -> None:
    """Let this process and its ranks hold so much memory of their own each; 0: as much as there is."""
    if gigabytes:
        limit = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def run(folder: Path, order: dict[str, Any]) -> None:
    """Train in `folder` and leave result.json: the summary, and the variants that were asked for."""
    import torch

    from pipeline import distributed, train
    from pipeline.config import from_dict
    from preprocessing import files
    from tuning.space import nested
    from tuning.variants import evaluate_variants

    torch.set_num_threads(order["threads"])
    config = from_dict(nested(order["settings"] | {"out": str(folder), "wandb": "off"}))
    train.claim(config)
    if config.nproc > 1:
        distributed.launch(rank, (order | {"folder": str(folder)},), config.nproc)
    else:
        train.run(config, read_test=order["test"])
    summary = json.loads((folder / "summary.json").read_text())
    variants = evaluate_variants(folder, order["variants"], order["test"]) if order["variants"] else {}
    files.publish_json(folder / RESULT, {"summary": summary, "variants": variants})


def rank(order: dict[str, Any]) -> None:
    """What the launcher starts in each rank."""
    import torch

    from pipeline import train
    from pipeline.config import from_dict
    from tuning.space import nested

    torch.set_num_threads(order["threads"])
    config = from_dict(nested(order["settings"] | {"out": order["folder"], "wandb": "off"}))
    try:
        train.run(config, read_test=order["test"])
    except (ValueError, OSError, train.NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(exits.code(error))


def start(name: str) -> None:
    """What a trial's process runs, in a group of its own; all that is said goes to the folder's log."""
    os.setsid()
    with contextlib.suppress(OSError):  # what ps and top call it, where there is a /proc
        Path("/proc/self/comm").write_text(f"trial {Path(name).name}")
    multiprocessing.current_process().daemon = False  # or it could have no ranks
    folder = Path(name)
    with open(folder / LOG, "ab") as log:
        for said in (1, 2):
            os.dup2(log.fileno(), said)
    end_with_parent()
    order = json.loads((folder / ORDER).read_text())
    os.environ |= {"OMP_NUM_THREADS": str(order["threads"]), "COLUMNS": "300"}
    limit_memory(order["memory"])
    from pipeline import distributed, train

    try:
        run(folder, order)
    except (ValueError, OSError, distributed.WorkerDied, train.NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exits.code(error))

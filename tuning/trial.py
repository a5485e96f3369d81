"""One trial, in a process of its own: a training as pipeline.train does it, resumed from its checkpoint.

    python -m tuning.trial FOLDER PARENT

FOLDER/order.json says what to train; PARENT is the pid without which the trial ends. A search's trials never see the
test split; a study's read it once, when all is done. Exit codes are those of pipeline.train.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from preprocessing import exits

WATCH = 0.5  # seconds


def end_with(parent: int) -> None:
    """End this process and its ranks as soon as `parent` is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
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
    from tuning.attempt import RESULT
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


def main() -> int:
    """Entry of `python -m tuning.trial`; returns the exit code."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    end_with(parent)
    order = json.loads((folder / "order.json").read_text())
    limit_memory(order["memory"])
    from pipeline import distributed, train

    try:
        run(folder, order)
    except (ValueError, OSError, distributed.WorkerDied, train.NonFiniteLoss) as error:
        print(f"error: {error}", file=sys.stderr)
        return exits.code(error)
    return 0


if __name__ == "__main__":
    # Ranks are started by name: they must find this module under its own name, not as __main__.
    from tuning.trial import main as imported_main

    sys.exit(imported_main())

"""One attempt at a trial: a process of its own, watched by its parent, so that nothing it does can hurt the search.

The parent reads the run folder's ledger as it grows. Whatever ends the child ends as one line: `Failed`. This module
is all that a Ray worker needs, so it imports no torch; the processes are forked from one that has.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from pipeline.report import read
from preprocessing import files
from tuning import trial
from tuning.trial import LOG, ORDER

POLL = 0.2  # seconds; what it costs, another trial does not get
CAUSES = {2: "settings", 3: "worker died", 5: "non-finite", 6: "damaged file", 7: "no space"}
# Loading torch, and what its optimizers load at their first use, takes a core 3 to 7 s: once a Ray worker, not once a
# trial. __main__ is Ray's own file, which each child would load otherwise. A name that cannot be loaded is passed over.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "torch._dynamo", "pipeline.train", "tuning.variants"])
MEMORY = re.compile(r"out of memory|not enough memory|can.t allocate memory|cannot allocate memory|MemoryError", re.I)


class Failed(RuntimeError):
    """An attempt failed; the message is its cause: a word, a colon, what was said last."""


class Attempt:
    """A child that trains in `folder` as `order` says (tuning.trial). `limit` in seconds, None: as long as it takes."""

    def __init__(self, folder: Path, order: dict[str, Any], limit: float | None) -> None:
        self.folder, self.limit, self.begun, self.seen = folder, limit, time.monotonic(), 0
        folder.mkdir(parents=True, exist_ok=True)
        files.publish_json(folder / ORDER, order)
        (folder / LOG).write_bytes(b"")
        # Daemonic: a Ray worker that ends does not wait for it.
        self.process = FORKS.Process(target=trial.start, args=(str(folder),), daemon=True)
        self.process.start()

    def next(self) -> dict[str, Any] | None:
        """Figures of the next epoch that was evaluated; None when the training is done. Failed when it ended badly."""
        while True:
            code = self.process.exitcode  # before reading, so that nothing written before the end is missed
            for line in read(self.folder):
                if line["epoch"] > self.seen and "accuracies" in line:
                    self.seen = line["epoch"]
                    return measured(line)
            if code == 0:
                return None
            if code is not None:
                raise Failed(cause(code, (self.folder / LOG).read_text(errors="replace")))
            if self.limit is not None and time.monotonic() - self.begun > self.limit:
                self.stop()
                raise Failed(f"time: not done after {self.limit:.0f} s")
            time.sleep(POLL)

    def stop(self) -> None:
        """End the child and its ranks, if they still run."""
        with contextlib.suppress(ProcessLookupError):  # it may not lead its group yet
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """Epoch, train accuracy, A to D and gaps of a ledger's line; `val` is C, the accuracy on held-out clips."""
    accuracies, gap = line["accuracies"], line["gap"]
    return {
        "epoch": line["epoch"],
        "val": accuracies.get("C"),
        "train": line["train"]["top1"],
        **accuracies,
        **{f"{name}_gap": value for name, value in gap.items()},
    }


def cause(code: int, log: str) -> str:
    """What ended a child: from its exit code and the last thing it said."""
    said = [line for line in log.splitlines() if line.strip()]
    last = said[-1].strip().removeprefix("error: ") if said else "nothing was said"
    if MEMORY.search(last):
        return f"memory: {last}"
    if code < 0:
        more = ", by lack of memory perhaps" if code == -signal.SIGKILL else ""
        return f"killed: by signal {-code}{more}"
    return f"{CAUSES.get(code, f'exit code {code}')}: {last}"

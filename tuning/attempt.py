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
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.tracking.report import read
from preprocessing import files
from tuning import trial

LOG = "log.txt"
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
        files.publish_json(folder / trial.ORDER, order)
        (folder / LOG).write_bytes(b"")
        # Daemonic: a Ray worker that ends does not wait for it.
        self.process = FORKS.Process(target=_begin, args=(folder,), daemon=True)
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
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may not lead its group yet
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def _begin(folder: Path) -> None:
    """What the child runs: a trial, in a process group of its own, that ends with its parent; its words go to a log."""
    os.setsid()
    with contextlib.suppress(OSError):  # what ps and top call it, where there is a /proc
        Path("/proc/self/comm").write_text(f"trial {folder.name}")
    multiprocessing.current_process().daemon = False  # or it could have no ranks
    with open(folder / LOG, "ab") as log:
        for said in (1, 2):
            os.dup2(log.fileno(), said)
    os.environ["COLUMNS"] = "300"  # one line stays one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(trial.main(folder))


def _end_with_parent() -> None:
    """Wait for the parent's end, however it goes, then end this process and its ranks."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


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

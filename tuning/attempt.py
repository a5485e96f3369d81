"""One attempt at a trial: a child process, supervised by its parent, so that no failure harms the search.

The parent reads the run folder's ledger as it grows. However the child ends, the parent reports at most one line:
AttemptFailed. A Ray worker needs this module alone, so it does not import torch; the fork server preloads torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.nodes import Node
from pipeline.tracking.ledger import read
from preprocessing import exits, files
from preprocessing.lifetime import end_with_parent
from tuning import trial
from tuning.trial_spec import TrialSpec

LOG = "log.txt"
POLL = 0.2  # seconds; polling takes time from the other trials
CAUSES = {2: "settings", 3: "rank died", 5: "non-finite", 6: "damaged file", 7: "no space", 8: "memory"}
# To load torch and what its optimizers import at first use takes a core 3 to 7 s: once per Ray worker instead of once
# per trial. __main__ is Ray's script, which each child would import otherwise. Names that fail to load are ignored.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "torch._dynamo", "pipeline.training", "tuning.re_evaluations"])
# What `epoch_metrics` returns, in the order of the columns of results.csv.
EPOCH_METRICS = ("val", "train", "A", "B", "C", "D", "normalization_gap", "generalization_gap", "epoch")


class AttemptFailed(RuntimeError):
    """An attempt failed; the message is its cause: a keyword, a colon, the last line of the log."""


class Attempt:
    """A child process that trains in `folder`.

    Args:
        folder: The trial's run folder; it is created.
        spec: What to train.
        limit: Seconds until the attempt is stopped; None means no limit.
        node: This node, if ranks of several train together (`tuning.spread`, which prepares the folder).
        listener: On node 0, the socket that is bound to the node's port.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        spec: TrialSpec,
        limit: float | None,
        node: Node | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.folder, self.limit, self.started, self.last_epoch = folder, limit, time.monotonic(), 0
        self.log = folder / (LOG if node is None or node.number == 0 else f"log-{node.number}.txt")
        if node is None:
            prepare(folder, spec)
        self.log.write_bytes(b"")
        # Daemonic: a Ray worker that exits does not wait for it.
        self.process = FORKS.Process(target=_run_child, args=(folder, self.log, node, listener), daemon=True)
        self.process.start()

    def next_epoch(self) -> dict[str, Any] | None:
        """Wait for the next evaluated epoch and return its metrics; None when the training has finished.

        Raises:
            AttemptFailed: The child failed, or passed the time limit and was stopped.
        """
        while True:
            cause = self.cause()  # before the ledger, so that no line is missed
            for line in read(self.folder):
                if line["epoch"] > self.last_epoch and "accuracies" in line:
                    self.last_epoch = line["epoch"]
                    return epoch_metrics(line)
            if cause == "":
                return None
            if cause is not None:
                raise AttemptFailed(cause)
            time.sleep(POLL)

    def cause(self) -> str | None:
        """Return why the attempt has failed; empty if it has finished, None while it goes on.

        An attempt that passes its time limit is stopped.
        """
        code = self.process.exitcode
        if code == 0:
            return ""
        if code is not None:
            return failure_cause(code, self.log.read_text(errors="replace"))
        if self.limit is not None and time.monotonic() - self.started > self.limit:
            self.stop()
            return f"time: not finished after {self.limit:.0f} s"
        return None

    def stop(self) -> None:
        """Kill the child and its ranks, if they are still running."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may not lead its process group yet
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


def prepare(folder: Path, spec: TrialSpec) -> None:
    """Create the run folder with the trial spec."""
    folder.mkdir(parents=True, exist_ok=True)
    files.publish_json(folder / trial.SPEC, spec.to_json())


def _run_child(folder: Path, output: Path, node: Node | None, listener: socket.socket | None) -> None:
    """Run a trial in its own process group, with its output in a log; it ends with its parent."""
    os.setsid()
    with contextlib.suppress(OSError):  # the name in ps and top, where /proc exists
        Path("/proc/self/comm").write_text(f"trial {folder.name}")
    multiprocessing.current_process().daemon = False  # a daemonic process cannot start ranks
    with open(output, "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ["COLUMNS"] = "300"  # messages are not wrapped
    end_with_parent(end=lambda: os.killpg(0, signal.SIGKILL))  # and its ranks
    sys.exit(trial.main(folder, node, listener))


def epoch_metrics(line: dict[str, Any]) -> dict[str, Any]:
    """Return the EPOCH_METRICS of a run ledger's line; `val` is C, the accuracy on held-out clips."""
    accuracies, gap = line["accuracies"], line["gap"]
    return {
        "epoch": line["epoch"],
        "val": accuracies.get("C"),
        "train": line["train"]["top1"],
        **accuracies,
        **{f"{name}_gap": value for name, value in gap.items()},
    }


def failure_cause(code: int, log: str) -> str:
    """Return the cause of a child's end in one line, from its exit code and the last line of its log."""
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1].strip().removeprefix("error: ") if lines else "the log is empty"
    if exits.MEMORY.search(last):
        return f"memory: {last}"
    if code < 0:
        hint = " (perhaps out of memory)" if code == -signal.SIGKILL else ""
        return f"killed: by signal {-code}{hint}"
    return f"{CAUSES.get(code, f'exit code {code}')}: {last}"

"""Start and end the follower: a process that reads a ledger as it grows and hands it to W&B.

Nothing here waits for W&B during the work, and no fault of it raises. At the end the follower gets LIMIT
seconds; if it has not finished by then, or was killed, another one records everything on disk from the ledger.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

from pipeline.tracking.follower_process import GIVEN_UP, OFF, recorded_on_disk

START, FINISH = 15, 30  # seconds that the server gets: to accept a run, to take its last records
LIMIT = 90  # seconds that the follower gets once the record is complete


class Follower:
    """The process that follows a record; it does nothing in mode `off`.

    Args:
        module: Module that the process runs.
        arguments: Its arguments, without those of `follower_process.parser`.
        folder: Folder whose subfolder `wandb` holds the W&B files.
        mode: off, offline or online.
        run_id: W&B ID; a new one if empty.
        after: Last epoch that an earlier follower recorded under this ID.
    """

    def __init__(
        self, module: str, arguments: list[str], folder: Path, mode: str, run_id: str = "", after: int = 0
    ) -> None:
        self.module, self.arguments, self.folder = module, arguments, folder
        self.id = run_id or secrets.token_hex(4)
        self.process = self._start(mode, after) if mode != "off" else None

    def finish(self) -> None:
        """Mark the record as complete and wait for W&B, at most LIMIT seconds; after that, record it on disk."""
        if self.process is None:
            return
        process, self.process = self.process, None
        code = _end(process)
        if code in (0, GIVEN_UP):
            return
        state = f"signal {-code}" if code and code < 0 else f"not done in {LIMIT} s" if code is None else f"exit {code}"
        print(f"W&B: its process ended early ({state}). {recorded_on_disk(self.folder)}", file=sys.stderr)
        if (again := self._start("offline", 0)) is not None and _end(again) not in (0, GIVEN_UP):
            print(OFF.format(reason="its process ended early again"), file=sys.stderr)

    def _start(self, mode: str, after: int) -> subprocess.Popen[str] | None:
        limits = ["--start-limit", str(START), "--finish-limit", str(FINISH), "--limit", str(LIMIT)]
        options = ["--mode", mode, "--id", self.id, "--after", str(after), *limits]
        root = str(Path(__file__).parents[2])  # the process imports this very package, wherever it is
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        words = [sys.executable, "-P", "-m", self.module, *self.arguments, *options]
        try:
            # A session of its own: Ctrl-C reaches the parent only, which then signals the follower.
            return subprocess.Popen(  # noqa: S603 - the words are ours
                words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
                env=os.environ | {"PYTHONPATH": path},
            )  # fmt: skip
        except OSError as error:
            print(OFF.format(reason=error), file=sys.stderr)
            return None


def _end(process: subprocess.Popen[str]) -> int | None:
    """Mark the record as complete; return the exit code, None if the process had to be killed."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it is dead already
        process.stdin.write("end\n")
        process.stdin.close()
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def follow_training(run: Path, mode: str, epochs_done: int) -> Follower:
    """Follow the training in the run folder `run`, under the W&B ID that it has if `epochs_done` is not 0."""
    run_id = (last_id(run) if epochs_done else None) or ""
    arguments = ["training", str(run)]
    return Follower("pipeline.tracking.follower_process", arguments, run, mode, run_id, epochs_done)


def record_diagnosis(run: Path, mode: str) -> None:
    """Record RUN/doctor.json as a W&B run of its own beside that of the training."""
    run_id = f"doctor{secrets.token_hex(4)}"
    Follower("pipeline.tracking.follower_process", ["diagnosis", str(run)], run, mode, run_id).finish()


def last_id(run: Path) -> str | None:
    """Return the W&B ID of the training in `run`, so that a resumed one keeps it; None if it has none yet."""
    names = sorted(folder.name.partition("run-")[2] for folder in (run / "wandb").glob("*run-*-*"))
    ids = [name.split("-")[1] for name in names if not name.split("-")[1].startswith("doctor")]
    return ids[-1] if ids else None

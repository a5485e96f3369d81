"""The follower process: reads ledgers as they grow and hands them to W&B. It may hang or be killed at any time.

    python -m pipeline.tracking.follower_process training RUN --mode online --id ID

Started by pipeline.tracking.follower. A line `end` on standard input marks the record as complete, as does the end of
the input when the parent process is gone. It then records the rest and exits, after LIMIT seconds at the latest. Where
the server cannot be used, it records everything again on disk, which `wandb sync` sends later: the ledger has it all.
Exit codes: 0 recorded, 1 failed, 3 nothing can be recorded (a message gives the reason).
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.tracking.subjects import DoctorVerdict, Subject, Training

if TYPE_CHECKING:
    from pipeline.tracking.wandb_door import WandbRun

POLL = 0.5  # seconds between two looks at the ledger
GIVEN_UP = 3
OFF = "W&B is off for this run ({reason}); the ledger has every figure."


def recorded_on_disk(folder: Path) -> str:
    """Return the end of a message: where the run is recorded, and how to send it."""
    return f"Recorded on disk; send it later: wandb sync {folder / 'wandb'}/offline-run-*"


class Recorder:
    """Records subjects on W&B.

    Args:
        folder: Folder whose subfolder `wandb` holds the runs' files.
        options: Mode, ID and time limits, see `parser`.
    """

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self._done: set[str] = set()
        self._runs: dict[str, WandbRun] = {}
        self._epochs: dict[str, int] = {}

    def record(self, subjects: Iterable[Subject], stopped: str) -> None:
        """Record what is new. `stopped`: empty while the parent works, then `ended` or `orphaned`."""
        for subject in subjects:
            if subject.key not in self._done:
                self._record(subject, stopped)

    def _record(self, subject: Subject, stopped: str) -> None:
        ended = subject.ended(bool(stopped))  # before its rows are read, so that none is missed
        run = self._runs.get(subject.key) or self._start(subject)
        for row in subject.rows():
            if row["epoch"] > self._epochs.get(subject.key, self.options.after):
                run.log(row)
                self._epochs[subject.key] = row["epoch"]
        if ended:
            run.finish(subject.conclude(run), exit_code=int(stopped == "orphaned"))
            self._done.add(subject.key)
            del self._runs[subject.key]

    def _start(self, subject: Subject) -> WandbRun:
        from pipeline.tracking.wandb_door import About, WandbRun

        about = About(
            self.options.id + subject.key,
            subject.name,
            subject.job_type,
            subject.group,
            subject.config,
            tuple(subject.tags),
            subject.notes,
        )
        options, mode = self.options, self.options.mode
        if mode == "offline":
            for part in (self.folder / "wandb").glob(f"run-*-{about.id}"):
                shutil.rmtree(part, ignore_errors=True)  # of an online run that is recorded again
        run = WandbRun(about, self.folder, mode, options.after > 0, options.start_limit, options.finish_limit)
        self._runs[subject.key] = run
        return run


def follow(subjects: Callable[[], Iterable[Subject]], folder: Path, options: argparse.Namespace) -> int:
    """Record subjects until the parent signals that they are complete, or ends; return the exit code.

    If the server cannot be used, this process is replaced by one that records everything on disk.

    Args:
        subjects: Returns what there is to record by now.
        folder: Folder whose subfolder `wandb` holds the runs' files.
        options: See `parser`.
    """
    os.nice(5)  # the training comes first
    recorder = Recorder(folder, options)
    stopped = options.stopped
    try:
        while True:
            stopped = stopped or _stopped(POLL)
            if stopped and not options.stopped:
                signal.alarm(int(options.limit))  # the signal ends this process, whatever it waits for
            recorder.record(subjects(), stopped)
            if stopped:
                return 0
    except Exception as error:  # whatever wandb raises
        from pipeline.tracking.wandb_door import reason

        if options.mode == "offline":
            print(OFF.format(reason=reason(error)), file=sys.stderr, flush=True)
            return GIVEN_UP
        print(f"W&B: {reason(error)}. {recorded_on_disk(folder)}", file=sys.stderr, flush=True)
    return _restart_on_disk(stopped)


def _restart_on_disk(stopped: str) -> NoReturn:
    """Replace this process by a follower that records all epochs on disk.

    Only a new interpreter can: wandb's service holds the ID of a run that it could not start or finish.
    """
    os.environ.pop("WANDB_SERVICE", None)
    words = [*sys.orig_argv[1:], "--mode", "offline", "--after", "0", "--stopped", stopped]
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - our own words


def _stopped(seconds: float) -> str:
    """`ended` if the parent signalled it, `orphaned` if it is gone, empty if neither happens within `seconds`."""
    if not select.select([sys.stdin], [], [], seconds)[0]:
        return ""
    return "ended" if sys.stdin.readline() == "end\n" else "orphaned"


def parser() -> argparse.ArgumentParser:
    """Options that all followers have."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--mode", choices=("offline", "online"), required=True)
    made.add_argument("--id", required=True, help="W&B ID, or its beginning if there are several subjects")
    made.add_argument("--after", type=int, default=0, help="last epoch that an earlier follower recorded")
    made.add_argument("--stopped", choices=("", "ended", "orphaned"), default="", help="how the parent has stopped")
    made.add_argument("--start-limit", type=float, required=True, help="seconds that the server gets at the start")
    made.add_argument("--finish-limit", type=float, required=True, help="seconds that the server gets at the end")
    made.add_argument("--limit", type=float, required=True, help="seconds that the follower gets at the end")
    return made


def main() -> int:
    """Entry of the process; returns the exit code."""
    options = parser()
    options.add_argument("kind", choices=("training", "diagnosis"))
    options.add_argument("run", type=Path)
    parsed = options.parse_args()
    subject: Subject = Training(parsed.run) if parsed.kind == "training" else DoctorVerdict(parsed.run)
    return follow(lambda: [subject], parsed.run, parsed)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # wandb would wait at exit for a server that is given up

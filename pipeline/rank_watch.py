"""Notice ranks that are stopped or hang: the launcher looks at their state, their work and their beats.

A sign of life is a beat (`distributed.beat`: a step, a collective), processor time that the rank or a process that it
started (a compiler) uses or waits for, or bytes that it reads or writes. So a long compilation, evaluation or hash of a
data file is not silence; neither is the wait for a rank that does one of them. Ranks are silent when none gives a sign.

Only Linux shows all this; elsewhere no rank counts as silent, and torch's own time limit of collectives holds. A rank
that waits on a GPU uses processor time all the while: there only stopped processes are found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
BUSY = 0.05  # share of a core from which processor time is a sign of life; progress bars and followers stay below it
LOOKS = 20  # looks per bound
LONGEST = 2.0  # seconds between two looks


class Silent(NamedTuple):
    """Ranks that are to be ended, and why."""

    ranks: list[int]
    message: str


class RankWatch:
    """Watches the ranks of this machine.

    Args:
        pids: Their process IDs.
        beats: A counter per rank.
        bound: Seconds of silence that are allowed; 0 means any number.
    """

    def __init__(self, pids: Sequence[int], beats: Sequence[int], bound: float) -> None:
        self.pids, self.beats, self.bound = pids, beats, bound
        self.interval = min(bound / LOOKS, LONGEST) if bound else LONGEST
        self._stopped, self._quiet = [0.0] * len(pids), 0.0
        self._time, self._signs = time.monotonic(), self._look()

    def _look(self) -> tuple[list[int], float, int]:
        """Return beats, seconds of processor time and bytes moved, up to now."""
        return list(self.beats), sum(map(processor_seconds, self.pids)), sum(map(bytes_moved, self.pids))

    def silent(self) -> Silent | None:
        """Return the ranks that were silent for longer than the bound, None while there are none; call it often."""
        if not self.bound or not PROC.is_dir():
            return None
        now, (beats, seconds, moved) = time.monotonic(), self._look()
        # A launcher that was itself stopped for a while (Ctrl-Z, a sleeping laptop) has not seen silence.
        passed = min(now - self._time, 2 * self.interval)
        before, self._signs, self._time = self._signs, (beats, seconds, moved), now
        states = [state(pid) for pid in self.pids]
        self._stopped = [(old + passed) * (s == "T") for old, s in zip(self._stopped, states, strict=True)]
        alive = beats != before[0] or moved != before[2] or seconds - before[1] > BUSY * passed
        self._quiet = 0.0 if alive else self._quiet + passed
        ranks = [rank for rank, since in enumerate(self._stopped) if since > self.bound]
        ranks = ranks or [rank for rank, s in enumerate(states) if s == "T" and self._quiet > self.bound]
        if ranks:
            return Silent(ranks, f"{_named(ranks)} stopped (SIGSTOP) for {self.bound:g} s; SIGCONT would continue it")
        if self._quiet <= self.bound:
            return None
        ranks = [rank for rank, count in enumerate(beats) if count == min(beats)]
        waiting = "" if len(ranks) == len(beats) else " and the others wait for it"
        return Silent(
            ranks,
            f"{_named(ranks)} silent for {self.bound:g} s (no step, no processor time, no file access){waiting}; "
            "--rank-timeout sets the limit",
        )


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]} was" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} were"


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none if the process has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> str:
    """Return the letter of a process's state: T is stopped; empty if it has ended."""
    return next(iter(_fields(pid)), "")


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and all that it started have used or waited for, ended ones included."""
    seconds, pids = 0.0, [pid]
    while pids:
        one = pids.pop()
        if fields := _fields(one):
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime
            seconds += _waiting_seconds(one)
            pids += _children(one)
    return seconds


def _waiting_seconds(pid: int) -> float:
    """Return how long a process's first thread has waited for a core: on a crowded machine that is most of its time."""
    try:
        return int((PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return found


def bytes_moved(pid: int) -> int:
    """Return the bytes that a process has read from and written to disks; 0 where that is not shown."""
    try:
        lines = (PROC / str(pid) / "io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("read_bytes", "write_bytes")))

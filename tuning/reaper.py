"""End what is left of a Ray session once its driver has ended, and remove the session's folder.

    python -I -S tuning/reaper.py FOLDER DRIVER < PIPE

The driver holds the other end of the pipe, so the input ends when the driver does, even if it is killed. Ray's head
processes end with the driver, but agents and workers would live on for up to a minute. Each of them writes a log of
the session: that is how they are found. This file imports the standard library alone, for a quick start.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

PATIENCE, LIMIT = 1.0, 15.0  # seconds that processes get to end by themselves; after which no more are looked for
QUIET = 3  # looks without a process of the session, after which it has ended
POLL = 0.2


def members(folder: str, driver: int) -> Iterator[int]:
    """Yield the pids of this user's processes that have a file below `folder` open for writing, but for the driver.

    Not of those that have one open for reading: a person may be looking at a log.
    """
    beginning = os.path.join(os.path.realpath(folder), "")
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != driver and any(f.startswith(beginning) for f in written(name)):
            yield int(name)


def written(pid: str) -> Iterator[str]:
    """Yield the files that a process has open for writing; none of another user's process."""
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{number}")
                if target.startswith("/") and writable(f"/proc/{pid}/fdinfo/{number}"):
                    yield target


def writable(info: str) -> bool:
    """Return whether a descriptor's flags (octal, in its `fdinfo`) allow writing."""
    with open(info) as file:
        for line in file:
            if line.startswith("flags:"):
                return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def reap(folder: str, driver: int) -> None:
    """Kill the processes of a session and remove its folder."""
    begin, quiet = time.monotonic(), 0
    while quiet < QUIET and time.monotonic() < begin + LIMIT:
        found = list(members(folder, driver)) if os.path.isdir("/proc") else []
        quiet = 0 if found else quiet + 1
        if time.monotonic() > begin + PATIENCE:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the driver, not before
    with suppress(OSError):
        while os.read(0, 1):
            pass
    reap(sys.argv[1], int(sys.argv[2]))

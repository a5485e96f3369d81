"""Start and end of a command: read arguments before heavy imports, end in one line on Ctrl-C, silently on `| head`.

A module whose imports take seconds calls `early` above them, where it is the program; every command ends with
`sys.exit(startup.run(main))`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from preprocessing import exits, lifetime


def early(read: Callable[[], Any]) -> None:
    """Read the arguments of this process; `--help` and a mistake end it here.

    From now on until `run`, Ctrl-C ends the process with one line: most of that time modules are imported, where an
    exception would be a traceback, or would be caught by a library.
    """
    signal.signal(signal.SIGINT, _interrupted)
    try:
        read()
    except (ValueError, OSError) as error:
        sys.exit(exits.report(error))


def _interrupted(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # the terminal may send a second one
    os.write(2, b"error: interrupted\n")
    os._exit(exits.INTERRUPTED)


def run(main: Callable[[], int | None]) -> int:
    """Run a command; return its exit code."""
    if signal.getsignal(signal.SIGINT) in (_interrupted, signal.default_int_handler):
        lifetime.interrupt_once()
    exits.print_any_character()
    try:
        code = int(main() or 0)
        sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt) as error:
        return exits.report(error)
    return code

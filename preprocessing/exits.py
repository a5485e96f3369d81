"""Exit codes of the commands, the same in all packages: 0 is success, 128 + n is the end by signal n.

An error class of ours that stands for more than wrong usage has an attribute `exit_code`.
"""

from __future__ import annotations

import errno
import sys

USAGE, WORKER, REJECTS, NON_FINITE, INTEGRITY, NO_SPACE, INTERRUPTED = 2, 3, 4, 5, 6, 7, 130


class Fault(RuntimeError):
    """An error that a command reports in one line, without a traceback."""

    exit_code = USAGE


def no_space(error: BaseException) -> bool:
    """Return whether the error comes from a full disk or an exhausted quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def code(error: BaseException) -> int:
    """Return the exit code of an error."""
    if no_space(error):
        return NO_SPACE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return int(getattr(error, "exit_code", USAGE))


def report(error: BaseException, interrupted: str = "interrupted") -> int:
    """Print an error to stderr in one line and return its exit code.

    Args:
        error: The error; its message is printed.
        interrupted: Text to print for an error without a message, such as KeyboardInterrupt.
    """
    print(f"error: {str(error) or interrupted}", file=sys.stderr, flush=True)
    return code(error)

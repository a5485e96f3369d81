"""What the exit code of a command says, the same in all rooms; 0 is success, 128 + n the end by signal n.

An error class of ours that stands for more than wrong use has an attribute `exit_code`.
"""

from __future__ import annotations

import errno
import sys

USAGE, WORKER, REJECTS, NON_FINITE, INTEGRITY, NO_SPACE, INTERRUPTED = 2, 3, 4, 5, 6, 7, 130


def no_space(error: BaseException) -> bool:
    """Whether a full disk, or a quota that is used up, caused this."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    if no_space(error):
        return NO_SPACE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return int(getattr(error, "exit_code", USAGE))


def told(error: BaseException, interrupted: str = "interrupted") -> int:
    """Say an error on stderr, in one line; the exit code that it stands for."""
    print(f"error: {str(error) or interrupted}", file=sys.stderr, flush=True)
    return code(error)

"""Exit codes of the commands, the same in all packages: 0 is success, 128 + n is the end by signal n.

Every error that a command reports in one line is a ValueError, an OSError or a `Fault`. A class that stands for more
than wrong usage has an attribute `exit_code`.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import signal
import sys
from pathlib import Path

USAGE, WORKER, REJECTS, NON_FINITE, INTEGRITY, NO_SPACE, OUT_OF_MEMORY, INTERRUPTED = 2, 3, 4, 5, 6, 7, 8, 130
CLOSED = 141  # the reader of standard output is gone, as after `| head`
# torch raises a RuntimeError where an allocation fails, on a CPU and on a GPU.
MEMORY = re.compile(r"out of memory|not enough memory|can.t allocate memory|cannot allocate memory|MemoryError", re.I)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Fault(RuntimeError):
    """An error that a command reports in one line, without a traceback."""

    exit_code = USAGE


class Terminated(KeyboardInterrupt):
    """SIGTERM asks this process to end."""

    exit_code = 128 + signal.SIGTERM


def no_space(error: BaseException) -> bool:
    """Return whether the error comes from a full disk, an exhausted quota or a limit of file sizes."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, in Python, numpy or torch."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    foreign = isinstance(error, RuntimeError) and not hasattr(error, "exit_code")
    return isinstance(error, MemoryError) or (foreign and bool(MEMORY.search(str(error))))


def expected(error: BaseException) -> bool:
    """Return whether a command reports this error in one line; any other one is a defect of ours, with a traceback."""
    return isinstance(error, (ValueError, OSError, Fault, KeyboardInterrupt)) or out_of_memory(error)


def code(error: BaseException) -> int:
    """Return the exit code of an error."""
    if no_space(error):
        return NO_SPACE
    if out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, BrokenPipeError):
        return CLOSED
    return int(getattr(error, "exit_code", INTERRUPTED if isinstance(error, KeyboardInterrupt) else USAGE))


def describe(error: BaseException) -> str:
    """Return the message of an error in one line, with the remedy where the system's own message has none.

    Control characters of names that it quotes are escaped: they would act on the terminal.
    """
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", _describe(error))


def _describe(error: BaseException) -> str:
    text = str(error)
    if out_of_memory(error):
        # torch appends advice on its allocator to the first sentence.
        found = re.split(r"(?<=[^\d])\.\s", " ".join(text.split()))[0].removeprefix("[Errno 12] ")
        return f"out of memory ({found or type(error).__name__}): use smaller batches, or free some memory"
    if not isinstance(error, OSError) or error.filename is None:
        return text
    if no_space(error):
        found = error.strerror if "needed" in str(error.strerror) else f"{_free(str(error.filename))} free"
        return f"no space left for {error.filename}: {found}. Free some space; the same command tries again."
    if isinstance(error, PermissionError):
        return f"permission denied for user {os.getuid()}: {error.filename}. Change its mode or owner, or name another."
    return text


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def _free(path: str) -> str:
    try:
        return size(shutil.disk_usage(Path(path).parent).free)
    except OSError:
        return "an unknown number of bytes"


def print_any_character() -> None:
    """Let standard output replace the characters that its encoding lacks (LC_ALL=C), instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def report(error: BaseException, interrupted: str = "interrupted") -> int:
    """Print an error to stderr in one line and return its exit code. Nothing is printed where the reader is gone.

    Args:
        error: The error; its message is printed.
        interrupted: Text to print for an error without a message, such as KeyboardInterrupt.

    Raises:
        BaseException: The error itself if it is not `expected`.
    """
    if not expected(error):
        raise error
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is flushed at exit
        return CLOSED
    if isinstance(error, Terminated):
        interrupted = interrupted.replace("interrupted", "terminated (SIGTERM)", 1)
    print(f"error: {describe(error) or interrupted}", file=sys.stderr, flush=True)
    return code(error)

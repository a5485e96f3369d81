"""Named points at which a test ends the process; they do nothing else.

`SKELNORM_FAULT_AT="pointer published:3"` kills the process (SIGKILL) when it passes that point for the third time.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "SKELNORM_FAULT_AT"
_passed: dict[str, int] = {}


def faultpoint(name: str) -> None:
    """End this process here if the environment asks for it; else do nothing."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    place, _, count = wanted.partition(":")
    if place == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)

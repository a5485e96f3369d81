"""Provenance of a page: version, commit, command and date, shown in its footer."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class Provenance:
    """Origin of a page."""

    command: str
    """As it was typed."""
    version: str
    """Of skelnorm; empty if it runs without being installed."""
    commit: str
    """Abbreviated, with `-dirty` for uncommitted changes; empty outside a checkout."""
    date: str
    """Minutes, UTC."""

    @classmethod
    def of(cls, program: str, arguments: Sequence[str]) -> Provenance:
        """Describe a page that `python -m program arguments` makes now."""
        command = f"python -m {program} {shlex.join(arguments)}".rstrip()
        return cls(command, version(), commit(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


@cache
def version() -> str:
    """Return the installed version of skelnorm, or an empty string."""
    try:
        return metadata.version("skelnorm")
    except metadata.PackageNotFoundError:
        return ""


@cache
def commit(file: Path = Path(__file__)) -> str:
    """Return the commit of the checkout that tracks `file`, or an empty string.

    A package installed into a user's repository is not tracked there, and so has no commit.
    """
    if not _git(file.parent, "ls-files", file.name):
        return ""
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""

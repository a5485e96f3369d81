"""Provenance: versions, commit, command, date and machine class, recorded with every result and shown on every page.

`record()` is what the JSON files, checkpoints and W&B runs hold. It names no folder and no host: of each path in the
command only the last part is kept, and an address is replaced.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

FILE = "provenance.json"  # in a run folder
ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "numpy")
ADDRESS = re.compile(r"\w+://|[\w.-]+:\d+$|(\d+\.){3}\d+$")  # of a cluster: ray://head:10001, head:6379, 10.0.0.1


@dataclass(frozen=True)
class Provenance:
    """Origin of a result or of a page."""

    command: str
    """As it was typed, without folders and hosts; empty if no command of ours made it (Python API)."""
    version: str
    """Of skelnorm; empty if it runs without being installed."""
    commit: str
    """Abbreviated, with `-dirty` for uncommitted changes; empty outside a checkout."""
    date: str
    """Minutes, UTC."""
    libraries: dict[str, str] = field(default_factory=dict)
    """Library -> version, of the libraries that figures depend on; absent where it is not installed."""
    machine: str = ""
    """Machine class: processor, cores, GPUs."""

    @classmethod
    def of(cls, program: str, arguments: Sequence[str]) -> Provenance:
        """Describe what `python -m program arguments` makes now."""
        return cls._made_by(f"python -m {program} {plain(arguments)}".rstrip())

    @classmethod
    def of_process(cls) -> Provenance:
        """Describe what the command of this process makes now."""
        return cls._made_by(running_command())

    @classmethod
    def _made_by(cls, command: str) -> Provenance:
        libraries = {name: number for name in LIBRARIES if (number := version(name))}
        return cls(command, version(), commit(), f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", libraries, machine())

    def as_dict(self) -> dict[str, str]:
        """Return plain values: skelnorm, torch, numpy, python, commit, command, date and machine; none is empty."""
        values = {
            "skelnorm": self.version,
            **self.libraries,
            "python": platform.python_version(),
            "commit": self.commit,
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
        }
        return {key: value for key, value in values.items() if value}


def record() -> dict[str, str]:
    """Return the provenance of what this process makes now, as files and W&B runs hold it."""
    return Provenance.of_process().as_dict()


def plain(words: Iterable[str]) -> str:
    """Return a command line without folders and hosts: of a path its last part, `ADDRESS` for an address."""
    return shlex.join(_plain(word) for word in words)


def _plain(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    if ADDRESS.match(value):
        return f"{option}{equals}ADDRESS"
    if os.sep in value or value in (".", "..", "~"):
        value = Path(value).name or "PATH"
    return f"{option}{equals}{value}" if equals or not option else option


def running_command(words: Sequence[str] | None = None) -> str:
    """Return the command of this process, without folders and hosts; empty if the program is not ours.

    Args:
        words: Program and arguments; None: `sys.argv`. The console script has put `skelnorm NAME` in the first place.
    """
    program, *rest = sys.argv if words is None else words
    if program.startswith("skelnorm "):
        return f"{program} {plain(rest)}".rstrip()
    path = Path(program)
    if not path.is_absolute() or not path.is_relative_to(ROOT) or path.suffix != ".py":
        return ""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    if not module.startswith(("preprocessing.", "pipeline.", "tuning.")):
        return ""
    return f"python -m {module} {plain(rest)}".rstrip()


@cache
def version(package: str = "skelnorm") -> str:
    """Return the installed version of a package, or an empty string; the package is not imported."""
    try:
        return metadata.version(package)
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
    return _output("git", "-C", str(folder), *arguments)


def _output(*command: str) -> str:
    """Return what a program prints; empty if it is missing, fails or takes too long."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


@cache
def machine() -> str:
    """Return the machine class: `Intel Xeon ..., 8 cores, 2 x NVIDIA H200`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [processor(), f"{cores} core{'s' if cores > 1 else ''}"]
    return ", ".join([*parts, *(f"{n} x {name}" if n > 1 else name for name, n in Counter(gpus()).items())])


def processor(table: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's model name; its architecture where that is unknown."""
    try:
        lines = table.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the names of this machine's NVIDIA GPUs, without loading torch."""
    texts = [path.read_text() for path in sorted(driver.glob("*/information"))]
    names = [line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model")]
    if names or not shutil.which("nvidia-smi"):
        return names
    return [line.strip() for line in _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()]

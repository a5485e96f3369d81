"""Re-check a built file: `python -m preprocessing.verify FILE.h5`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from preprocessing import exits, hdf5, startup
from preprocessing.arguments import parse as read_options

DESCRIPTION = """Check every array of a built file against its sha256, and all numbers against each other.

examples:
  python -m preprocessing.verify ntu60.h5
  python -m preprocessing.verify ntu60.h5 && python -m pipeline.train default --data ntu60.h5 --out runs/a

exit codes: 0 intact, 2 no such file, 6 damaged (one line per fault)
"""


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.h5")]
    """The HDF5 file."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options(Options, "preprocessing.verify", DESCRIPTION, arguments)
    if not options.file.is_file():
        print(f"error: {options.file} does not exist; make it with python -m preprocessing.build", file=sys.stderr)
        return exits.USAGE
    try:
        faults = hdf5.verify(options.file)
    except (PermissionError, MemoryError, KeyboardInterrupt) as error:
        return exits.report(error)
    for fault in faults:
        print(f"{options.file}: {fault}")
    if not faults:
        print(f"{options.file}: intact")
    return exits.INTEGRITY if faults else 0


if __name__ == "__main__":
    sys.exit(startup.run(main))

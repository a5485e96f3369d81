"""Check every array of a built file against its sha256, and all numbers against each other.

Examples:
  python -m preprocessing.verify ntu60.h5
  python -m preprocessing.verify ntu60.h5 && python -m pipeline.train default --data ntu60.h5 --out runs/a

exit codes: 0 intact, 2 no such file, 6 damaged (one line per fault)
"""

from __future__ import annotations

import sys

from preprocessing import startup
from preprocessing.options import read_options

if __name__ == "__main__":
    startup.early(lambda: read_options("preprocessing.verify"))  # before NumPy and h5py load


from preprocessing import exits, hdf5


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = read_options("preprocessing.verify", arguments)
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

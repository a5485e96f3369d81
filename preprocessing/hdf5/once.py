"""Check a data file once per machine, for many processes that open it with `fast_start`."""

from __future__ import annotations

import fcntl
import platform
from pathlib import Path

from preprocessing import files
from preprocessing.hdf5.reader import open_file
from preprocessing.hdf5.watch import Identity


def check_once(path: Path, folder: Path) -> bool:
    """Check every checksum of a data file, unless a process of this machine has checked this very file.

    Processes that ask at the same time wait for the one that checks.

    Args:
        path: The data file.
        folder: Folder of the record `.checked.MACHINE.json`, which holds the file's identity.

    Returns:
        Whether the file was read.

    Raises:
        FileNotFoundError: The file does not exist.
        IntegrityError: The file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f".checked.{platform.node() or 'machine'}.json"
    with open(record.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known = files.read_json(record, "path", "identity") if record.is_file() else {}
        except files.IntegrityError:
            known = {}
        path = path.resolve()
        if path.is_file() and known == {"path": str(path), "identity": list(Identity.of(path))}:
            return False
        file = open_file(path)
        files.publish_json(record, {"path": str(path), "identity": list(file.identity or ())})
        return True

"""Child process of the writer: `python -m preprocessing.hdf5 SPOOL`. It adds the HDF5 structure to the spooled rows."""

from __future__ import annotations

import errno
import hashlib
import json
import select
import sys
from pathlib import Path

import h5py
import numpy as np

from preprocessing import exits
from preprocessing.files import IntegrityError, sync_file
from preprocessing.hdf5.reader import content_digest, locate
from preprocessing.hdf5.schema import CHANNELS, SCHEMAS
from preprocessing.hdf5.storage import BLOCK, reserve, rows_offset
from preprocessing.lifetime import end_with_parent, wait_for_end_of_input


def complete(spool: Path) -> None:
    """Make an HDF5 file of the spool's file `joints`, read it back and compare the checksums.

    Raises:
        IntegrityError: The file read back differs from what was written.
    """
    root = json.loads((spool / "root.json").read_text())
    rows = (spool / "present").stat().st_size
    joints, channels = len(root["joint_names"]), len(root.get("channels", CHANNELS))
    tracked = root.pop("tracked")
    small = {p.stem.replace("+", "/"): np.load(p, allow_pickle=False) for p in sorted(spool.glob("*.npy"))}
    hashes = root.pop("digests") | {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in small.items()}
    root["content_sha256"] = content_digest(root, hashes)
    whole, shell = spool / "joints", spool / "shell.h5"
    with h5py.File(shell, "w") as file:
        # First, so that its offset depends on nothing else.
        first = reserve(file, "frames/joints", (rows, joints, channels), np.dtype(np.float32))
        places = {"present": reserve(file, "frames/present", (rows,), np.dtype(bool))}
        if tracked:
            places["tracked"] = reserve(file, "frames/tracked", (rows, joints), np.dtype(tracked))
        for name, array in small.items():
            file.create_dataset(name, data=array, track_times=False)
        for name, sha256 in hashes.items():
            file[name].attrs["sha256"] = np.bytes_(sha256)
        for key, attribute in SCHEMAS[root["schema"]].items():
            file.attrs[key] = attribute.encode(root[key])
    behind = first + rows * joints * channels * 4
    if rows and (first != rows_offset(joints, channels) or whole.stat().st_size < behind):
        raise IntegrityError("the rows are not where the HDF5 library expects them")
    _copy(shell, whole, first, 0, 0)
    _copy(shell, whole, shell.stat().st_size - behind, behind, behind)
    for name, offset in places.items():
        _copy(spool / name, whole, (spool / name).stat().st_size, 0, offset)
    sync_file(whole)
    shell.unlink()
    with h5py.File(whole, "r") as file:
        where = locate(file)
    for name, place in where.items():
        if place.digest(whole) != hashes[name]:
            raise IntegrityError(f"{name} read back differs from what was written; check the disk")


def _copy(source: Path, target: Path, count: int, at: int, to: int) -> None:
    """Copy `count` bytes from offset `at` of one file to offset `to` of another."""
    with open(source, "rb", buffering=0) as reader, open(target, "r+b", buffering=0) as writer:
        reader.seek(at)
        writer.seek(to)
        while count:
            block = memoryview(reader.read(min(BLOCK, count)))
            if not block:
                raise OSError(errno.EIO, "a temporary file has shrunk", str(source))
            count -= len(block)
            while block:
                block = block[writer.write(block) :]


def _orphaned() -> bool:
    """Return whether the parent died before this process started: its spool may then belong to another build."""
    return bool(select.select([0], [], [], 0)[0])


if __name__ == "__main__":
    if _orphaned():
        sys.exit(1)
    end_with_parent(wait_for_end_of_input)  # the spool may then belong to another build
    try:
        complete(Path(sys.argv[1]))
    except (OSError, IntegrityError) as error:
        print(error, file=sys.stderr)
        sys.exit(exits.NO_SPACE if exits.no_space(error) else 1)

"""Low-level HDF5: arrays with a fixed place in the file, found again by their offset."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

BLOCK = 1 << 20
LIBRARY = h5py.version.hdf5_version  # version of the HDF5 library


@dataclass(frozen=True)
class Place:
    """Place of one array in a file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    sha256: str

    def map(self, path: Path) -> np.ndarray:
        """Memory-map the array, read-only."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(path, self.dtype, mode="r", offset=self.offset, shape=self.shape)

    def digest(self, path: Path) -> str:
        """Hex sha256 of the array, read in blocks: a map of the whole would count as memory in use."""
        digest = hashlib.sha256()
        left = math.prod(self.shape) * self.dtype.itemsize
        block = memoryview(bytearray(min(BLOCK, left)))
        with open(path, "rb", buffering=0) as file:
            file.seek(self.offset)
            while left and (got := file.readinto(block[: min(left, BLOCK)])):
                digest.update(block[:got])
                left -= got
        return digest.hexdigest()


def reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Create an array with a place in the file but without writing any byte there; return its offset."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    group = file.require_group(name.rpartition("/")[0] or "/")
    kind = h5py.h5t.py_create(dtype, logical=True)
    made = h5py.h5d.create(group.id, name.rpartition("/")[2].encode(), kind, h5py.h5s.create_simple(shape), plist)
    return int(made.get_offset() or 0)


def rows_offset(joints: int, channels: int = 3) -> int:
    """Offset of the rows in every file that this HDF5 library makes, measured on a file in memory."""
    with h5py.File("offset", "w", driver="core", backing_store=False) as file:
        reserve(file, "frames/joints", (1, joints, channels), np.dtype(np.float32))
        return int(file["frames/joints"].id.get_offset())


def plain(item: Any) -> bool:
    """Return whether an array is stored contiguously, unfiltered and inside its file."""
    inside = not (item.external or item.is_virtual)
    return inside and not item.chunks and not item.id.get_create_plist().get_nfilters()


def file_size(file: h5py.File) -> int:
    """Size of an open file in bytes."""
    return os.path.getsize(file.filename)

"""Write the HDF5 file of `preprocessing.export --format dense`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from preprocessing.files import publish
from preprocessing.hdf5.schema import ATTRIBUTES, SkeletonFile
from preprocessing.hdf5.storage import reserve


def write_dense(path: Path, file: SkeletonFile, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Publish an HDF5 file with `x` float32, `y` (N,), the names and the splits.

    Args:
        path: The file to write.
        file: The built file that labels, names and splits come from.
        shape: Shape of `x`: (N, C, T, V, M).
        blocks: One (C, T, V, M) array per clip, in the order of the file.
    """
    with publish(path) as temporary:
        with h5py.File(temporary, "w") as out:
            offset = reserve(out, "x", shape, np.dtype(np.float32))
            out.create_dataset("y", data=file.clips["label"], track_times=False)
            names = np.char.encode(file.clips["name"], "utf-8")
            out.create_dataset("name", data=names, track_times=False)
            for protocol, parts in file.splits.items():
                for part, index in parts.items():
                    out.create_dataset(f"splits/{protocol}/{part}", data=index, track_times=False)
            for key in ("dataset", "class_names", "joint_names"):
                out.attrs[key] = ATTRIBUTES[key].encode(getattr(file, key))
        with open(temporary, "r+b") as plain:
            # Plain writing, so that a full disk raises an ordinary error and not one of the HDF5 library.
            plain.seek(offset)
            for block in blocks:
                plain.write(np.ascontiguousarray(block, np.float32).tobytes())

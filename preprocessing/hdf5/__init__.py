"""The data file, schemas `skelnorm/1` and `/2`: write, open, verify. The only package that imports h5py.

Arrays are contiguous and uncompressed, so a reader can map them; every array has the sha256 of its bytes. Rows are
appended to what becomes the file itself, behind a gap as large as HDF5 needs at its beginning. At the end the gap and
everything after the rows are filled in and the file is renamed, so the frames are written only once.
"""

from preprocessing.hdf5.bodies import BodyIndex, body_index, clip_present, clip_rows, clip_tracked, first_rows
from preprocessing.hdf5.dense import write_dense
from preprocessing.hdf5.once import check_once
from preprocessing.hdf5.reader import open_file, skipped, verify
from preprocessing.hdf5.schema import (
    BODY_KEYS,
    CHANNELS,
    CLIP_KEYS,
    PARTS,
    SCHEMA,
    SCHEMA_2,
    SLOTS,
    UNIT,
    Contents,
    SkeletonFile,
)
from preprocessing.hdf5.spool import Spool
from preprocessing.hdf5.storage import LIBRARY
from preprocessing.hdf5.watch import Identity, Watch, end_on_bus_error
from preprocessing.hdf5.writer import write

__all__ = [
    "BODY_KEYS", "CHANNELS", "CLIP_KEYS", "LIBRARY", "PARTS", "SCHEMA", "SCHEMA_2", "SLOTS", "UNIT", "BodyIndex",
    "Contents", "Identity", "SkeletonFile", "Spool", "Watch", "body_index", "check_once", "clip_present", "clip_rows",
    "clip_tracked", "end_on_bus_error", "first_rows", "open_file", "skipped", "verify", "write", "write_dense",
]  # fmt: skip

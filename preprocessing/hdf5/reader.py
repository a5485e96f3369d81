"""Open and verify a file: every array against its sha256, and all numbers against the schema and each other.

The HDF5 library and h5py raise errors of many classes on damaged metadata. Here each is an IntegrityError that names
the object, and nothing is read whose declared size the file could not hold.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from preprocessing.files import IntegrityError
from preprocessing.hdf5.contents import frame_faults, small_faults
from preprocessing.hdf5.schema import SCHEMAS, SkeletonFile, array_spec, assemble, protocols_of, required_arrays
from preprocessing.hdf5.storage import Place, file_size, plain
from preprocessing.hdf5.watch import Identity

MEMBERS = 10_000  # of a group; a file has a few protocols
ATTRIBUTE = 1 << 24  # bytes of an attribute: the names of all classes and joints, the recipe
DIGEST = 64


def open_file(path: Path, fast_start: bool = False) -> SkeletonFile:
    """Open and check a file.

    Args:
        path: The HDF5 file.
        fast_start: Skip the checksums of the frames, which are nearly the whole file. Attributes, clips, bodies and
            splits are checked all the same.

    Raises:
        FileNotFoundError: The file does not exist.
        PermissionError: This user may not read it.
        IntegrityError: The file is damaged; the message names the array and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; make it with python -m preprocessing.build")
    _require_permission(path)
    identity = Identity.of(path)
    try:
        root, where = _read_structure(path)
        for fault in _faults(path, root, where, fast_start):
            raise IntegrityError(fault)
        with _named("the file"):
            file = assemble(path, root, {name: place.map(path) for name, place in where.items()}, identity)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; build it again") from None
    if fault := identity.fault(path):
        raise IntegrityError(f"{path} {fault} while it was opened; try again")
    return file


def skipped(path: Path) -> str:
    """Return what a start with `fast_start` does not check, in one line."""
    return (
        f"note: --fast-start: the frames of {path} ({path.stat().st_size / 1e6:.0f} MB) are not compared with their "
        "sha256; attributes, clips, bodies and splits are."
    )


def verify(path: Path) -> list[str]:
    """Return all faults of a file, one line each; an empty list for an intact file.

    More than `open_file`, it looks at the values of all frames, and whether the bones are a tree.
    """
    path = Path(path)
    _require_permission(path)
    try:
        root, where = _read_structure(path)
        faults = list(_faults(path, root, where, fast_start=False))
        if not faults:
            with _named("frames"):
                faults = list(frame_faults(path, root, where))
    except IntegrityError as error:
        return [str(error)]
    return faults


def _require_permission(path: Path) -> None:
    """Raise PermissionError if this user may not read the file, which is then not damaged."""
    os.close(os.open(path, os.O_RDONLY))


def content_digest(root: dict[str, Any], hashes: dict[str, str]) -> str:
    """Hex sha256 of root attributes (without the digest itself) and the checksums of all arrays."""
    described = {key: root[key] for key in SCHEMAS[root["schema"]] if key != "content_sha256"}
    return hashlib.sha256(json.dumps([described, sorted(hashes.items())], sort_keys=True).encode()).hexdigest()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn every error into an IntegrityError that names the object."""
    try:
        yield
    except IntegrityError:
        raise
    except Exception as error:  # h5py: KeyError, OSError, RuntimeError, TypeError, ValueError, SystemError, ...
        what = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
        raise IntegrityError(f"{name} is unreadable ({what})") from None


def _read_structure(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    with _named("the HDF5 structure"), h5py.File(path, "r") as file:
        root, where = _read_root(file), locate(file)
    for name in where:
        spec = array_spec(name)
        if spec and spec.since > root["schema"]:
            raise IntegrityError(f"{name} is unexpected in schema {root['schema']}")
    return root, where


def _read_root(file: h5py.File) -> dict[str, Any]:
    with _named("root attribute schema"):
        stored = _attribute(file, "schema", file) if "schema" in file.attrs else b""
        schema = stored.decode() if isinstance(stored, bytes) else None
    if schema not in SCHEMAS:
        raise IntegrityError(f"schema is {str(stored)[:80]}, not {' or '.join(SCHEMAS)}")
    attributes = SCHEMAS[schema]
    with _named("root attributes"):
        if len(file.attrs) > MEMBERS:
            raise IntegrityError(f"root has {len(file.attrs)} attributes")
        differing = set(file.attrs) ^ set(attributes)
    if differing:
        raise IntegrityError(f"root attributes differ from the schema's: {', '.join(sorted(differing))}")
    root: dict[str, Any] = {}
    for key, attribute in attributes.items():
        with _named(f"root attribute {key}"):
            root[key] = attribute.decode(_attribute(file, key, file))
    return root


def _attribute(item: Any, key: str, file: h5py.File) -> Any:
    """Read an attribute whose values stand in it, and not elsewhere in the file; of a bounded size."""
    found = item.attrs.get_id(key)
    kind = found.dtype
    declared = math.prod(found.shape) * kind.itemsize
    if kind.kind not in "Siuf" or declared > min(ATTRIBUTE, file_size(file)):
        raise IntegrityError(f"attribute {key} has {declared} bytes of type {kind}")
    return item.attrs[key]


def _walk(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    with _named(f"group /{prefix}"):
        if len(group) > MEMBERS:
            raise IntegrityError(f"group /{prefix} has {len(group)} members")
        keys = sorted(group)
    for key in keys:
        name = prefix + key
        with _named(name):
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise IntegrityError(f"{name} is a link to another place")
            if name.count("/") > 2:
                raise IntegrityError(f"{name} is unexpected")
            item = group[key]
        if isinstance(item, h5py.Group):
            yield from _walk(item, name + "/")
        else:
            yield name, item


def locate(file: h5py.File) -> dict[str, Place]:
    """Return the place of every array by name.

    Raises:
        IntegrityError: An array is missing, unknown to the schema, of another type, or not inside the file.
    """
    where: dict[str, Place] = {}
    for name, item in _walk(file):
        with _named(name):
            where[name] = _locate_one(name, item, file)
    if missing := sorted(required_arrays(protocols_of(where)) - set(where)):
        raise IntegrityError(f"{', '.join(missing)} is missing")
    return where


def _locate_one(name: str, item: Any, file: h5py.File) -> Place:
    spec = array_spec(name)
    if spec is None or not isinstance(item, h5py.Dataset):
        raise IntegrityError(f"{name} is unexpected")
    if not plain(item):
        raise IntegrityError(f"{name} is not stored plainly in this file")
    if not spec.allows(item.dtype) or not item.dtype.itemsize:
        raise IntegrityError(f"{name} has type {item.dtype}, not {spec.dtype}")
    shape = tuple(int(length) for length in item.shape)
    if len(shape) != len(spec.shape):
        raise IntegrityError(f"{name} has shape {shape}, not {len(spec.shape)} dimensions")
    offset = item.id.get_offset()
    stored = math.prod(shape) * item.dtype.itemsize
    if stored and (offset is None or offset < 0 or offset + stored > file_size(file)):
        raise IntegrityError(f"{name} lies beyond the end of the file")
    sha256 = _attribute(item, "sha256", file) if "sha256" in item.attrs else b""
    if not isinstance(sha256, bytes) or len(sha256) != DIGEST:
        raise IntegrityError(f"{name} has no checksum")
    return Place(int(offset or 0), shape, item.dtype, sha256.decode("ascii", "replace"))


def _faults(path: Path, root: dict[str, Any], where: dict[str, Place], fast_start: bool) -> Iterator[str]:
    """Yield the faults of a readable file: checksums first, then numbers that do not match each other."""
    checked = [name for name in where if not (fast_start and name.startswith("frames/"))]
    with _named("the file"):
        broken = [name for name in checked if where[name].digest(path) != where[name].sha256]
    yield from (f"{name} does not match its sha256" for name in broken)
    with _named("the root attributes"):
        digest = content_digest(root, {name: place.sha256 for name, place in where.items()})
    if digest != root["content_sha256"]:
        yield "content_sha256 does not match attributes and arrays"
    if broken:
        return
    with _named("the file"):
        small = {name: place.map(path) for name, place in where.items() if not name.startswith("frames/")}
        faults = list(small_faults(root, where, small))
    yield from faults

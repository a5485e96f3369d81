"""Open and verify a file: every array against its sha256, and all numbers against the schema and each other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from preprocessing.files import IntegrityError
from preprocessing.hdf5.schema import (
    CHANNELS,
    PARTS,
    SCHEMAS,
    SkeletonFile,
    array_spec,
    assemble,
    protocols_of,
    required_arrays,
)
from preprocessing.hdf5.storage import Place, file_size, plain


def open_file(path: Path, fast_start: bool = False) -> SkeletonFile:
    """Open and check a file.

    Args:
        path: The HDF5 file.
        fast_start: Skip the checksums, which read the whole file.

    Raises:
        FileNotFoundError: The file does not exist.
        PermissionError: This user may not read it.
        IntegrityError: The file is damaged; the message names the array and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; make it with python -m preprocessing.build")
    _require_permission(path)
    try:
        root, where = _read_structure(path)
    except OSError as error:
        raise IntegrityError(f"{path} is not a readable HDF5 file ({error}); build it again") from None
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}; build it again") from None
    for fault in _faults(path, root, where, fast_start):
        raise IntegrityError(f"{path}: {fault}; build it again")
    return assemble(path, root, {name: place.map(path) for name, place in where.items()})


def verify(path: Path) -> list[str]:
    """Return all faults of a file, one line each; an empty list for an intact file."""
    path = Path(path)
    _require_permission(path)
    try:
        root, where = _read_structure(path)
    except (OSError, IntegrityError) as error:
        return [str(error)]
    return list(_faults(path, root, where, fast_start=False))


def _require_permission(path: Path) -> None:
    """Raise PermissionError if this user may not read the file, which is then not damaged."""
    os.close(os.open(path, os.O_RDONLY))


def content_digest(root: dict[str, Any], hashes: dict[str, str]) -> str:
    """Hex sha256 of root attributes (without the digest itself) and the checksums of all arrays."""
    described = {key: root[key] for key in SCHEMAS[root["schema"]] if key != "content_sha256"}
    return hashlib.sha256(json.dumps([described, sorted(hashes.items())], sort_keys=True).encode()).hexdigest()


def _read_structure(path: Path) -> tuple[dict[str, Any], dict[str, Place]]:
    with h5py.File(path, "r") as file:
        root, where = _read_root(file), locate(file)
    for name in where:
        spec = array_spec(name)
        if spec and spec.since > root["schema"]:
            raise IntegrityError(f"{name} is unexpected in schema {root['schema']}")
    return root, where


def _read_root(file: h5py.File) -> dict[str, Any]:
    schema = file.attrs.get("schema", b"")
    if not isinstance(schema, bytes) or schema.decode() not in SCHEMAS:
        raise IntegrityError(f"schema is {schema!r}, not {' or '.join(SCHEMAS)}")
    attributes = SCHEMAS[schema.decode()]
    differing = set(file.attrs) ^ set(attributes)
    if differing:
        raise IntegrityError(f"root attributes differ from the schema's: {', '.join(sorted(differing))}")
    root: dict[str, Any] = {}
    for key, attribute in attributes.items():
        try:
            root[key] = attribute.decode(file.attrs[key])
        except (AttributeError, TypeError, ValueError) as error:
            raise IntegrityError(f"root attribute {key} is unreadable ({error})") from None
    return root


def _walk(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    for key in sorted(group):
        name = prefix + key
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
    size = file_size(file)
    where = {name: _locate_one(name, item, size) for name, item in _walk(file)}
    if missing := sorted(required_arrays(protocols_of(where)) - set(where)):
        raise IntegrityError(f"{', '.join(missing)} is missing")
    return where


def _locate_one(name: str, item: Any, size: int) -> Place:
    spec = array_spec(name)
    if spec is None or not isinstance(item, h5py.Dataset):
        raise IntegrityError(f"{name} is unexpected")
    if not plain(item):
        raise IntegrityError(f"{name} is not stored plainly in this file")
    if not spec.allows(item.dtype):
        raise IntegrityError(f"{name} has type {item.dtype}, not {spec.dtype}")
    if len(item.shape) != len(spec.shape):
        raise IntegrityError(f"{name} has shape {item.shape}, not {len(spec.shape)} dimensions")
    offset = item.id.get_offset()
    stored = item.size * item.dtype.itemsize
    if stored and (offset is None or offset + stored > size):
        raise IntegrityError(f"{name} lies beyond the end of the file")
    sha256 = item.attrs.get("sha256", b"")
    if not isinstance(sha256, bytes):
        raise IntegrityError(f"{name} has no checksum")
    return Place(int(offset or 0), tuple(item.shape), item.dtype, bytes(sha256).decode("ascii", "replace"))


def _faults(path: Path, root: dict[str, Any], where: dict[str, Place], fast_start: bool) -> Iterator[str]:
    """Yield the faults of a readable file: checksums first, then numbers that do not match each other."""
    if not fast_start:
        broken = [name for name, place in where.items() if place.digest(path) != place.sha256]
        yield from (f"{name} does not match its sha256" for name in broken)
        hashes = {name: place.sha256 for name, place in where.items()}
        if content_digest(root, hashes) != root["content_sha256"]:
            yield "content_sha256 does not match attributes and arrays"
        if broken:
            return
    sizes = {"V": len(root["joint_names"]), "K": len(root["class_names"]), "C": len(root.get("channels", CHANNELS))}
    sizes |= {"R": where["frames/joints"].shape[0], "N": where["clips/name"].shape[0]}
    sizes["B"] = where["bodies/clip"].shape[0]
    faults = list(_shape_faults(where, sizes))
    small = {name: place.map(path) for name, place in where.items() if not name.startswith("frames/")}
    faults += _value_faults(small, sizes)
    if not _inside(np.array(root["bones"]).ravel(), 0, sizes["V"]):
        faults.append("bones is out of range")
    if root["default_protocol"] not in protocols_of(where):
        faults.append(f"default_protocol {root['default_protocol']!r} is not among the splits")
    yield from faults
    if not faults:
        yield from _relation_faults(small, sizes)


def _shape_faults(where: dict[str, Place], sizes: dict[str, int]) -> Iterator[str]:
    for name, place in where.items():
        spec = array_spec(name)
        assert spec is not None
        for found, dimension in zip(place.shape, spec.shape, strict=True):
            expected = sizes[dimension] if isinstance(dimension, str) else dimension
            if expected is not None and found != expected:
                yield f"{name} has shape {place.shape}, expected {dimension} = {expected}"


def _value_faults(small: dict[str, np.ndarray], sizes: dict[str, int]) -> Iterator[str]:
    for name, values in small.items():
        spec = array_spec(name)
        assert spec is not None
        below = sizes[spec.below] if isinstance(spec.below, str) and spec.below else spec.below
        if spec.low is not None and not _inside(values, spec.low, below if isinstance(below, int) else None):
            yield f"{name} is out of range"


def _relation_faults(small: dict[str, np.ndarray], sizes: dict[str, int]) -> Iterator[str]:
    """Yield faults between arrays whose own shapes and values are valid."""
    # Differences instead of sums: a sum of damaged values could overflow.
    clip, start = small["bodies/clip"], small["bodies/start"]
    frames, first, owned = (small[f"clips/{key}"] for key in ("frames", "first_body", "bodies"))
    if np.any(start > sizes["R"] - frames[clip]):
        yield "bodies/start or clips/frames points beyond the rows"
    if np.any(first > sizes["B"] - owned):
        yield "clips/first_body or clips/bodies points beyond the bodies"
    for protocol in sorted(protocols_of(small)):
        together = np.concatenate([small[f"splits/{protocol}/{part}"] for part in PARTS])
        if len(np.unique(together)) != len(together):
            yield f"splits/{protocol} names a clip twice"


def _inside(values: np.ndarray, low: int, bound: int | None) -> bool:
    """Return whether all values are at least `low` and below `bound`, if there is one."""
    return not len(values) or bool(values.min() >= low and (bound is None or values.max() < bound))

"""The schemas as tables. Writing, reading, verifying and the list of required names follow from them.

A file that needs nothing of `skelnorm/2` (absent joints, other channels than x, y, z, another unit than metres) is
written as `skelnorm/1`, so that it keeps the bytes that it always had.
Dimensions: R rows (frames of bodies), V joints, C channels, N clips, B bodies, K classes. An array of text has any
item size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocessing.files import parse_json
from preprocessing.hdf5.watch import Identity

SCHEMA = "skelnorm/1"
SCHEMA_2 = "skelnorm/2"
CHANNELS = ("x", "y", "z")
UNIT = "m"
SLOTS = 2
PARTS = ("train", "val", "test")
PROTOCOL = "*"  # in a name: any protocol


class ArraySpec(NamedTuple):
    """One array of the file.

    Attributes:
        dtype: Its type; `S` is UTF-8 text of any length.
        shape: Names of dimensions, or numbers. Equal names mean equal lengths; None is free.
        low: Smallest allowed value.
        below: Bound of the values: a dimension or a number; empty for none.
        other: Another allowed type.
        since: First schema that has the array; a file of that schema may lack it.
    """

    dtype: np.dtype
    shape: tuple[str | int | None, ...]
    low: int | None = None
    below: str | int = ""
    other: np.dtype | None = None
    since: str = SCHEMA

    def allows(self, dtype: np.dtype) -> bool:
        """Return whether an array of this type may be stored; text has any item size."""
        return (dtype.kind == "S" == self.dtype.kind) or dtype in (self.dtype, self.other)


_INT, _TEXT = np.dtype(np.int64), np.dtype("S")

ARRAYS: dict[str, ArraySpec] = {
    "frames/joints": ArraySpec(np.dtype(np.float32), ("R", "V", "C")),  # zero where a body or joint is absent
    "frames/present": ArraySpec(np.dtype(bool), ("R",)),
    # Joints that were found: a mask, or scores whose 0 means absent.
    "frames/tracked": ArraySpec(np.dtype(bool), ("R", "V"), other=np.dtype(np.float16), since=SCHEMA_2),
    "bodies/clip": ArraySpec(_INT, ("B",), 0, "N"),
    "bodies/slot": ArraySpec(_INT, ("B",), 0, SLOTS),
    "bodies/start": ArraySpec(_INT, ("B",), 0),  # first row
    "clips/name": ArraySpec(_TEXT, ("N",)),
    "clips/label": ArraySpec(_INT, ("N",), 0, "K"),
    "clips/setup": ArraySpec(_INT, ("N",)),
    "clips/camera": ArraySpec(_INT, ("N",)),
    "clips/subject": ArraySpec(_INT, ("N",)),
    "clips/replication": ArraySpec(_INT, ("N",)),
    "clips/frames": ArraySpec(_INT, ("N",), 1),
    "clips/first_body": ArraySpec(_INT, ("N",), 0),
    "clips/bodies": ArraySpec(_INT, ("N",), 1),
    **{f"splits/{PROTOCOL}/{part}": ArraySpec(_INT, (None,), 0, "N") for part in PARTS},
}
"""Name in the file -> array. In a name, `*` is the name of a protocol."""

CLIP_KEYS = tuple(name.removeprefix("clips/") for name in ARRAYS if name.startswith("clips/"))
BODY_KEYS = tuple(name.removeprefix("bodies/") for name in ARRAYS if name.startswith("bodies/"))


class AttributeSpec(NamedTuple):
    """One root attribute: conversion of the value to what HDF5 stores, and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


# Fixed-length bytes instead of variable-length strings: the bytes of the heap that holds those are not stable.
_STRING = AttributeSpec(lambda value: np.bytes_(value.encode()), lambda stored: stored.decode())
_STRINGS = AttributeSpec(
    lambda value: np.array([text.encode() for text in value], dtype=np.bytes_),
    lambda stored: [text.decode() for text in stored],
)
_JSON = AttributeSpec(
    lambda value: np.bytes_(json.dumps(value, sort_keys=True).encode()), lambda stored: parse_json(stored.decode())
)
_FLOAT = AttributeSpec(np.float64, float)
_BONES = AttributeSpec(lambda value: np.array(value, np.int64).reshape(-1, 2), lambda stored: _pairs(stored).tolist())


def _pairs(stored: Any) -> np.ndarray:
    if stored.dtype.kind not in "iu" or stored.ndim != 2 or stored.shape[1] != 2:
        raise ValueError(f"{stored.dtype} of shape {stored.shape}, not pairs of joints")
    return np.asarray(stored)


ATTRIBUTES: dict[str, AttributeSpec] = {
    "schema": _STRING,
    "dataset": _STRING,
    "recipe": _JSON,
    "joint_names": _STRINGS,
    "bones": _BONES,
    "fps": _FLOAT,
    "class_names": _STRINGS,
    "default_protocol": _STRING,
    "content_sha256": _STRING,
}
"""Root attributes, in the order in which they are written."""

SCHEMAS: dict[str, dict[str, AttributeSpec]] = {
    SCHEMA: ATTRIBUTES,
    SCHEMA_2: ATTRIBUTES | {"channels": _STRINGS, "unit": _STRING},
}
"""Schema -> its root attributes."""


@dataclass(frozen=True)
class Contents:
    """Everything of a file except its frames. Arrays are sorted by clip name; bodies by (clip, slot)."""

    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    body_clip: np.ndarray  # (B,) int64
    body_slot: np.ndarray  # (B,) int64
    body_start: np.ndarray  # (B,) int64, first row
    clips: dict[str, np.ndarray]  # CLIP_KEYS -> (N,)
    splits: dict[str, dict[str, np.ndarray]]  # protocol -> PARTS -> int64 positions of clips
    default_protocol: str
    channels: tuple[str, ...] = CHANNELS  # names of the coordinates
    unit: str = UNIT  # of the coordinates: m, px, ...


@dataclass(frozen=True, eq=False)
class SkeletonFile:
    """An open file: R rows, V joints, N clips, B bodies. The frames are memory-mapped, everything else is in memory."""

    path: Path
    dataset: str
    recipe: dict[str, Any]
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    content_sha256: str
    joints_RV3: np.ndarray  # float32 metres, mapped read-only; (R, V, C) where the channels are not x, y, z
    present_R: np.ndarray  # bool; the row of an absent body is zero
    body_clip: np.ndarray  # (B,) int64
    body_slot: np.ndarray  # (B,) int64
    body_start: np.ndarray  # (B,) int64, first row
    clips: dict[str, np.ndarray]  # CLIP_KEYS -> (N,)
    splits: dict[str, dict[str, np.ndarray]]  # protocol -> PARTS -> int64 positions of clips
    default_protocol: str
    channels: tuple[str, ...] = CHANNELS
    unit: str = UNIT
    identity: Identity | None = None  # of the file when it was opened; None in memory
    tracked_RV: np.ndarray | None = None  # bool or float16 score, mapped; 0 where a joint is absent; None: no gaps


def array_spec(name: str) -> ArraySpec | None:
    """Return the specification of an array by its name in a file; None if the schema has no such array."""
    parts = name.split("/")
    if len(parts) == 3 and parts[1] != PROTOCOL:
        return ARRAYS.get(f"{parts[0]}/{PROTOCOL}/{parts[2]}")
    return ARRAYS.get(name) if len(parts) == 2 else None


def required_arrays(protocols: set[str]) -> set[str]:
    """Names of the arrays that a file with these protocols must have."""
    required = [name for name, spec in ARRAYS.items() if spec.since == SCHEMA]
    fixed = {name for name in required if PROTOCOL not in name}
    patterns = [name for name in required if PROTOCOL in name]
    return fixed | {name.replace(PROTOCOL, protocol) for name in patterns for protocol in protocols}


def protocols_of(names: dict[str, Any] | set[str]) -> set[str]:
    """Names of the protocols among the names of arrays."""
    return {name.split("/")[1] for name in names if name.startswith("splits/")}


def small_arrays(contents: Contents) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array as stored) of every array except the frames."""
    values = {f"bodies/{key}": getattr(contents, f"body_{key}") for key in BODY_KEYS}
    values |= {f"clips/{key}": contents.clips[key] for key in CLIP_KEYS}
    for protocol, parts in contents.splits.items():
        values |= {f"splits/{protocol}/{part}": parts[part] for part in PARTS}
    for name, value in values.items():
        spec = array_spec(name)
        assert spec is not None
        yield name, np.char.encode(value, "utf-8") if spec.dtype == _TEXT else np.asarray(value, spec.dtype)


def attribute_values(contents: Contents, gaps: bool = False) -> dict[str, Any]:
    """Root attributes as JSON values, without the content hash.

    Args:
        contents: Everything of a file except its frames.
        gaps: Whether joints are absent in the frames.
    """
    plain = not gaps and tuple(contents.channels) == CHANNELS and contents.unit == UNIT
    added = {} if plain else {"channels": list(contents.channels), "unit": contents.unit}
    return added | {
        "schema": SCHEMA if plain else SCHEMA_2,
        "dataset": contents.dataset,
        "recipe": contents.recipe,
        "joint_names": list(contents.joint_names),
        "bones": np.asarray(contents.bones, np.int64).reshape(-1, 2).tolist(),
        "fps": float(contents.fps),
        "class_names": list(contents.class_names),
        "default_protocol": contents.default_protocol,
    }


def assemble(
    path: Path, root: dict[str, Any], arrays: dict[str, np.ndarray], identity: Identity | None = None
) -> SkeletonFile:
    """Make an open file of decoded attributes and mapped arrays; all arrays but the frames are copied into memory."""
    clips = {key: np.array(arrays[f"clips/{key}"]) for key in CLIP_KEYS}
    clips["name"] = np.char.decode(clips["name"], "utf-8")
    splits: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        if name.startswith("splits/"):
            _, protocol, part = name.split("/")
            splits.setdefault(protocol, {})[part] = np.array(array)
    values: dict[str, Any] = {key: value for key, value in root.items() if key != "schema"}
    values["bones"] = np.array(root["bones"], np.int64).reshape(-1, 2)
    values["channels"] = tuple(root.get("channels", CHANNELS))
    values |= {f"body_{key}": np.array(arrays[f"bodies/{key}"]) for key in BODY_KEYS}
    return SkeletonFile(
        path=path,
        identity=identity,
        **values,
        joints_RV3=arrays["frames/joints"],
        present_R=arrays["frames/present"],
        tracked_RV=arrays.get("frames/tracked"),
        clips=clips,
        splits=splits,
    )

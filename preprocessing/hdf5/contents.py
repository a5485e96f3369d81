"""Check what the arrays of a file hold: values against the schema, and numbers against each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.bones import tree_fault
from preprocessing.hdf5.schema import CHANNELS, PARTS, array_spec, protocols_of
from preprocessing.hdf5.storage import Place

ROWS = 4096  # read at once


def small_faults(root: dict[str, Any], where: dict[str, Place], small: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield the faults of everything but the frames.

    Args:
        root: Root attributes.
        where: Name -> place of every array.
        small: Name -> every array but those of the frames.
    """
    sizes = {"V": len(root["joint_names"]), "K": len(root["class_names"]), "C": len(root.get("channels", CHANNELS))}
    sizes |= {"R": where["frames/joints"].shape[0], "N": where["clips/name"].shape[0]}
    sizes["B"] = where["bodies/clip"].shape[0]
    faults = list(_shape_faults(where, sizes))
    faults += _value_faults(small, sizes)
    faults += _attribute_faults(root, sizes)
    if root["default_protocol"] not in protocols_of(where):
        faults.append(f"default_protocol {root['default_protocol']!r} is not among the splits")
    yield from faults
    if not faults:
        yield from _relation_faults(small, sizes)
        yield from _name_faults(small["clips/name"])


def frame_faults(path: Path, root: dict[str, Any], where: dict[str, Place]) -> Iterator[str]:
    """Yield the faults of frames, and of bones that are in range but are not a tree. Reads the whole file.

    Args:
        path: The file, whose checksums are right.
        root: Root attributes.
        where: Name -> place of every array.
    """
    bones = [(int(parent), int(child)) for parent, child in root["bones"]]
    if bones and (fault := tree_fault(bones, len(root["joint_names"]))):
        yield f"bones are not a tree: {fault}"
    present_R = where["frames/present"].map(path)
    for name in ("frames/joints", "frames/tracked"):
        if name not in where or where[name].dtype.kind != "f":
            continue
        rows, absent = where[name].map(path), 0
        for first in range(0, len(rows), ROWS):
            block = np.asarray(rows[first : first + ROWS])
            wrong = ~np.isfinite(block).reshape(len(block), -1).all(axis=1)
            if wrong.any():
                yield f"{name} has values that are not finite, first in row {first + int(wrong.argmax())}"
                break
            absent += int((block != 0).reshape(len(block), -1).any(axis=1)[~present_R[first : first + ROWS]].sum())
        if absent:
            yield f"{name} is not zero in {absent} rows of absent bodies"


def _attribute_faults(root: dict[str, Any], sizes: dict[str, int]) -> Iterator[str]:
    if not inside(np.array(root["bones"], np.int64).ravel(), 0, sizes["V"]):
        yield "bones is out of range"
    if not (math.isfinite(root["fps"]) and root["fps"] > 0):
        yield f"fps is {root['fps']}: must be a number above 0"
    if not isinstance(root["recipe"], dict) or not isinstance(root["recipe"].get("stages"), list):
        yield "recipe has no list of stages"
    for key in ("joint_names", "class_names"):
        if len(set(root[key])) != len(root[key]):
            yield f"{key} has a name twice"


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
        if spec.low is not None and not inside(values, spec.low, below if isinstance(below, int) else None):
            yield f"{name} is out of range"


def _relation_faults(small: dict[str, np.ndarray], sizes: dict[str, int]) -> Iterator[str]:
    """Yield faults between arrays whose own shapes and values are valid."""
    # Differences instead of sums: a sum of damaged values could overflow.
    clip, slot, start = (np.asarray(small[f"bodies/{key}"]) for key in ("clip", "slot", "start"))
    frames, first, owned = (np.asarray(small[f"clips/{key}"]) for key in ("frames", "first_body", "bodies"))
    beyond = False
    if np.any(start > sizes["R"] - frames[clip]):
        beyond = True
        yield "bodies/start or clips/frames points beyond the rows"
    if np.any(first > sizes["B"] - owned):
        beyond = True
        yield "clips/first_body or clips/bodies points beyond the bodies"
    if not beyond:
        order = np.argsort(start, kind="stable")
        end = (start + frames[clip])[order]
        if np.any(start[order][1:] < end[:-1]):
            yield "bodies/start: rows of two bodies overlap"
        bodies = np.arange(sizes["B"])
        if np.any(bodies < first[clip]) or np.any(bodies >= (first + owned)[clip]) or owned.sum() != sizes["B"]:
            yield "bodies/clip does not match clips/first_body and clips/bodies"
        if len(np.unique(clip * 2 + slot)) != sizes["B"]:
            yield "bodies/slot: a clip has two bodies in one slot"
    for protocol in sorted(protocols_of(small)):
        together = np.concatenate([small[f"splits/{protocol}/{part}"] for part in PARTS])
        if len(np.unique(together)) != len(together):
            yield f"splits/{protocol} names a clip twice"


def _name_faults(name_N: np.ndarray) -> Iterator[str]:
    try:
        np.char.decode(np.asarray(name_N), "utf-8")
    except UnicodeDecodeError as error:
        yield f"clips/name is not UTF-8 text ({error.reason})"
        return
    distinct, count = np.unique(np.asarray(name_N), return_counts=True)
    if len(distinct) != len(name_N):
        twice = distinct[count.argmax()].decode()
        yield f"clips/name has a name twice: {twice}"


def inside(values: np.ndarray, low: int, bound: int | None) -> bool:
    """Return whether all values are at least `low` and below `bound`, if there is one."""
    return not len(values) or bool(values.min() >= low and (bound is None or values.max() < bound))

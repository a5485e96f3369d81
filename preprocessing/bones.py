"""Check that bones are a tree of the joints."""

from __future__ import annotations

from typing import Any

import numpy as np

SWAP = "Swap its columns: bones are (parent, child)"


def check_bones(bones: Any, joints: int) -> None:
    """Raise ValueError, in one line, if bones are given and are not a tree of all joints; no bones are allowed.

    Args:
        bones: (V-1, 2) integers, (parent, child), in any order.
        joints: Number of joints V.
    """
    bones = np.asarray(bones)
    if not bones.size:
        return
    if bones.ndim != 2 or bones.shape[1] != 2:
        raise ValueError(f"bones has shape {bones.shape}: must be (V-1, 2), one (parent, child) per bone.")
    if bones.dtype.kind not in "iu":
        raise ValueError(f"bones has type {bones.dtype}: must be integers, numbers of joints. Convert it to int64.")
    outside = ((bones < 0) | (bones >= joints)).any(axis=1)
    if outside.any():
        parent, child = bones[outside][0].tolist()
        raise ValueError(f"bone ({parent}, {child}) is out of range: joints are numbered 0 to {joints - 1}.")
    pairs = [(int(parent), int(child)) for parent, child in bones]
    fault = tree_fault(pairs, joints)
    if fault and not tree_fault([(child, parent) for parent, child in pairs], joints):
        raise ValueError(f"bones look like (child, parent), because {fault}. {SWAP}.")
    if fault:
        raise ValueError(f"bones are not a tree: {fault}. Each joint but the root needs one parent.")
    # A chain is a tree from both ends. People list it from its root.
    swapped = [(child, parent) for parent, child in pairs]
    if joints > 2 and _is_chain(pairs) and _root_first(swapped) and not _root_first(pairs):
        raise ValueError(f"bones look like (child, parent), because the bone of the root comes last. {SWAP}.")


def tree_fault(bones: list[tuple[int, int]], joints: int) -> str:
    """Return what keeps (parent, child) pairs from being a tree of all joints; empty for a tree."""
    parents = list(range(joints))
    for parent, child in bones:
        if parent == child:
            return f"bone ({parent}, {child}) joins a joint to itself"
        if parents[child] == parent:
            return f"bone ({parent}, {child}) occurs twice"
        if parents[child] != child:
            return f"joint {child} has two parents, {parents[child]} and {parent}"
        parents[child] = parent
    for start in range(joints):
        joint, way = start, [start]
        while parents[joint] != joint:
            joint = parents[joint]
            if joint in way:
                cycle = [*way[way.index(joint) :], joint]
                return f"joints {', '.join(map(str, cycle))} form a cycle"
            way.append(joint)
    if len(bones) < joints - 1:
        return f"{len(bones)} bones for {joints} joints, which need {joints - 1}"
    return ""


def _is_chain(bones: list[tuple[int, int]]) -> bool:
    return len({parent for parent, _ in bones}) == len(bones)


def _root_first(bones: list[tuple[int, int]]) -> bool:
    """Return whether each bone begins at a joint that an earlier one has reached."""
    reached = {bones[0][0]}
    for parent, child in bones:
        if parent not in reached:
            return False
        reached.add(child)
    return True

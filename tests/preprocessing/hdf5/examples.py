"""A small file for the tests of hdf5."""

from pathlib import Path

import numpy as np

from preprocessing.hdf5 import Contents, Spool, write

T, V = 7, 3


def contents() -> Contents:
    one = np.array([0, 1], np.int64)
    zero = np.zeros(2, np.int64)
    return Contents(
        dataset="test",
        recipe={"name": "exact", "stages": []},
        joint_names=["hip", "knee", "füße"],
        bones=np.array([[0, 1], [1, 2]]),
        fps=30.0,
        class_names=["stand", "go"],
        body_clip=np.array([0, 1, 1]),
        body_slot=np.array([0, 0, 1]),
        body_start=np.array([0, T, 2 * T]),
        clips={
            "name": np.array(["a", "bé"]), "label": one, "setup": zero, "camera": zero, "subject": one,
            "replication": zero, "frames": np.array([T, T]), "first_body": one, "bodies": np.array([1, 2]),
        },
        splits={"xsub": {"train": np.array([0]), "val": np.array([], int), "test": np.array([1])}},
        default_protocol="xsub",
    )  # fmt: skip


def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, T, V, 3)).astype(np.float32)


def write_to(path: Path, what: Contents | None = None) -> Path:
    with Spool(path.parent, V) as spool:
        for body in rows():
            spool.append(body, np.ones(T, bool))
        write(path, what or contents(), spool)
    return path

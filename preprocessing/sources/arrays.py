"""Array files: `.npz` in our own format, or in a layout of another project (see `layouts`).

Our own format has X (sum T, M, V, 3), ptr, label and optional arrays; preprocessing/README.md has a worked example.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing import ntu
from preprocessing.skeleton import RawClip, SkeletonError, Track
from preprocessing.sources.entries import ClipSource, Entry, SourceError
from preprocessing.sources.layouts import LAYOUTS
from preprocessing.stages.recipes import Landmarks


def open_arrays(paths: list[Path]) -> ClipSource:
    """Open one array file; SourceError names in one line what is wrong with it."""
    (path,) = paths
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"{path} is not a readable array file ({reason})") from None
    convert = next((layout for key, layout in LAYOUTS.items() if key in arrays), None)
    if convert:
        arrays = convert(path, arrays)
    _check_arrays(path, arrays)
    x_RMV3, ptr = arrays["X"].astype(np.float32, copy=False), arrays["ptr"]
    count, joints = len(ptr) - 1, x_RMV3.shape[2]
    label_N = arrays["label"].astype(np.int64)
    names = arrays["name"].astype(str) if "name" in arrays else np.array([f"{path.stem}-{i:06d}" for i in range(count)])
    given = {key: _codes(arrays[key]) for key in ("fold", "view", "subject") if key in arrays}
    if "split" in arrays:
        given["split"] = arrays["split"].astype(str)
    zero_N = np.zeros(count, np.int64)
    columns = {
        "label": label_N,
        "setup": zero_N,
        "camera": given.get("view", zero_N),
        "subject": given.get("subject", zero_N),
        "replication": zero_N,
    }
    order = np.argsort(names, kind="stable")
    bones = arrays["bones"].astype(np.int64) if "bones" in arrays else np.zeros((0, 2), np.int64)
    classes = int(label_N.max()) + 1
    return ClipSource(
        dataset=path.stem,
        joint_names=_texts(arrays, "joint_names", [f"joint {v}" for v in range(joints)]),
        bones=bones,
        fps=float(arrays.get("fps", ntu.FPS)),
        class_names=_texts(arrays, "class_names", [f"class {k}" for k in range(classes)]),
        landmarks=_landmarks(path, arrays, bones),
        kinect=False,
        entries=[
            Entry(name, f"{path}[{i}]", x_TMV3.nbytes, 0, array_clip, x_TMV3)
            for i, name, x_TMV3 in ((i, str(names[i]), x_RMV3[ptr[i] : ptr[i + 1]]) for i in order)
        ],
        columns={key: value[order] for key, value in columns.items()},
        given={key: value[order] for key, value in given.items()},
    )


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if missing := [key for key in ("X", "ptr", "label") if key not in arrays]:
        raise SourceError(f"{path} has no {', '.join(missing)}; an array file has X (sum T, M, V, 3), ptr and label")
    x, ptr, label = arrays["X"], arrays["ptr"], arrays["label"]
    if x.ndim != 4 or x.shape[3] != 3 or not 1 <= x.shape[1] <= 2 or x.dtype.kind != "f":
        raise SourceError(f"{path}: X has shape {x.shape} of {x.dtype}; expected floats (sum T, 1 or 2, V, 3)")
    if ptr.ndim != 1 or len(ptr) < 2 or ptr[0] != 0 or ptr[-1] != len(x) or bool(np.any(np.diff(ptr) < 0)):
        raise SourceError(f"{path}: ptr must ascend from 0 to {len(x)}, the rows of X")
    for key in ("label", "name", "subject", "view", "fold", "split"):
        if key in arrays and arrays[key].shape != (len(ptr) - 1,):
            raise SourceError(
                f"{path}: {key} has shape {arrays[key].shape}; expected one value for {len(ptr) - 1} clips"
            )
    if label.dtype.kind not in "iu" or label.min() < 0:
        raise SourceError(f"{path}: label must hold integers from 0")
    if "class_names" in arrays and label.max() >= len(arrays["class_names"]):
        raise SourceError(f"{path}: label {label.max()} has no class name; there are {len(arrays['class_names'])}")
    if "split" in arrays and (odd := set(arrays["split"].astype(str)) - {"train", "val", "test"}):
        raise SourceError(f"{path}: split {str(sorted(odd)[0])!r} is unknown; use train, val, test")
    if "name" in arrays and len(np.unique(arrays["name"])) != len(arrays["name"]):
        names, counts = np.unique(arrays["name"], return_counts=True)
        raise SourceError(f"{path}: clip name {str(names[counts > 1][0])!r} occurs twice")


def _codes(values: np.ndarray) -> np.ndarray:
    """Return integers unchanged; number anything else from 1 in sorted order."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64) + 1


def _texts(arrays: dict[str, Any], key: str, default: list[str]) -> list[str]:
    return [str(text) for text in arrays[key]] if key in arrays else default


def _root(bones: np.ndarray) -> int:
    """Root joint: the first joint that has no parent."""
    roots = np.setdiff1d(bones[:, 0], bones[:, 1])
    return int(roots[0]) if len(roots) else 0


def _landmarks(path: Path, arrays: dict[str, np.ndarray], bones: np.ndarray) -> Landmarks:
    """Reference joints: the root of the bones, and the joints that the file names."""
    pairs: dict[str, tuple[int, int]] = {}
    for key in ("shoulders", "spine"):
        if key in arrays:
            pair = arrays[key].ravel()
            if (
                len(pair) != 2
                or pair.dtype.kind not in "iu"
                or not 0 <= pair.min() <= pair.max() < arrays["X"].shape[2]
            ):
                raise SourceError(f"{path}: {key} must hold two joints, integers from 0 to {arrays['X'].shape[2] - 1}")
            pairs[key] = (int(pair[0]), int(pair[1]))
    return Landmarks(_root(bones), pairs.get("shoulders"), pairs.get("spine"))


def array_clip(x_TMV3: np.ndarray, name: str) -> RawClip:
    """Convert one clip (T, M, V, 3); a body is absent where all its joints are exactly zero.

    Raises:
        SkeletonError: A coordinate is NaN or infinite.
    """
    if not np.isfinite(x_TMV3).all():
        raise SkeletonError(name, 0, "non-finite")
    tracks = []
    for body in range(x_TMV3.shape[1]):
        frame_F = np.flatnonzero(x_TMV3[:, body].any(axis=(1, 2)))
        if len(frame_F):
            tracks.append(Track(body, frame_F, x_TMV3[frame_F, body]))
    return RawClip(len(x_TMV3), tuple(tracks))

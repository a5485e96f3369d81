"""Array files: `.npz` with X (sum T, M, V, C), ptr, label and optional arrays; two or three coordinates, and scores.

preprocessing/README.md has a worked example. Rows are read as they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.bones import check_bones
from preprocessing.layouts import Layout
from preprocessing.skeleton import RawClip
from preprocessing.sources.array_files import Arrays, Rows, memory, read_arrays
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.label_arrays import distinct, label_array, texts
from preprocessing.sources.labels import number_texts, split_parts
from preprocessing.sources.tracks import array_tracks, selecting
from preprocessing.sources.trees import Tree
from preprocessing.stages.recipes import Landmarks

CHANNELS = {"xyz": SPACE, "xy": IMAGE, "xys": IMAGE, "xyzs": SPACE}
SAMPLED_CLIPS = 256
SAMPLE = 4096  # rows by which coordinates are told from scores
KEYS = ("X", "ptr", "label")
SPLITTING = ("fold", "view", "subject")
READ = (*KEYS, *SPLITTING, "score", "split", "name", "class_names", "joint_names", "fps", "bones", "shoulders", "spine")


class Place(NamedTuple):
    """Rows of one clip in a file."""

    rows: Rows | np.ndarray
    scores: Rows | np.ndarray | None
    start: int
    stop: int
    channels: int  # coordinates; a further value is a score


def accepts(tree: Tree) -> bool:
    """Return whether a tree is an npz."""
    return tree.head[:2] == b"PK" and not tree.is_zip


def open_arrays(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open one array file; SourceError names in one line what is wrong with it."""
    (tree,) = trees
    path = tree.path
    arrays = read_arrays(path, READ)
    small = {key: memory(value) for key, value in arrays.items() if key not in ("X", "score")}
    _check_arrays(path, arrays, small, reading.labelled)
    x, ptr = arrays["X"], small["ptr"]
    channels, inside = _channels(path, arrays, reading)
    count, joints = len(ptr) - 1, x.shape[2]
    label_N, class_names = _labels(path, small, count)
    names = texts(path, "name", small["name"]) if "name" in small else _numbered(path.stem, count)
    given: dict[str, np.ndarray] = {key: _codes(small[key]) for key in SPLITTING if key in small}
    if "split" in small:
        given["split"] = split_parts(texts(path, "split", small["split"]).tolist(), str(path))
    order = np.argsort(names, kind="stable")
    known = keypoint_layout(path, joints, (), reading)
    joint_names = _joint_names(path, small, known)
    try:
        check_bones(small.get("bones", np.zeros((0, 2), np.int64)), joints)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    bones = small["bones"].astype(np.int64) if "bones" in small else known.bone_array
    place = Place(x, arrays.get("score"), 0, 0, len(channels))
    row = int(np.prod(x.shape[1:])) * 4
    stamp = path.stat().st_mtime_ns
    columns = {"label": label_N} | dict.fromkeys(("setup", "camera", "subject", "replication"), np.zeros_like(label_N))
    columns |= {column: given[key] for key, column in (("view", "camera"), ("subject", "subject")) if key in given}
    return ClipSource(
        dataset=path.stem,
        joint_names=joint_names,
        bones=bones,
        fps=reading.fps or _fps(path, small),
        class_names=class_names,
        landmarks=_landmarks(path, small, bones, joints, known),
        kinect=False,
        entries=[
            Entry(
                str(names[i]), f"{path}[{i}]", int(ptr[i + 1] - ptr[i]) * row, stamp, read_rows,
                place._replace(start=int(ptr[i]), stop=int(ptr[i + 1])),
            )
            for i in order
        ],
        columns={key: value[order] for key, value in columns.items()},
        given={key: value[order] for key, value in given.items()},
        channels=channels,
        unit="px" if channels == IMAGE else "m",
        scores=inside or "score" in arrays,
        stages=selecting(x.shape[1], inside or "score" in arrays, reading, _has_copies(x, ptr)),
    )  # fmt: skip


def _numbered(front: str, count: int) -> np.ndarray:
    return np.array([f"{front}-{i:06d}" for i in range(count)])


def _fps(path: object, small: Mapping[str, np.ndarray]) -> float:
    """Return the frames per second that the file names, else the usual ones."""
    fps = np.unique(small.get("fps", np.array(ntu.FPS)))
    if fps.dtype.kind not in "iuf" or len(fps) != 1 or not 0 < float(fps[0]) < np.inf:
        raise SourceError(
            f"{path}: fps is {', '.join(map(str, fps[:3]))}: must be one number above 0. Resample clips of other rates,"
            " or say --fps."
        )
    return float(fps[0])


def _joint_names(path: object, small: Mapping[str, np.ndarray], known: Layout) -> list[str]:
    if "joint_names" not in small:
        return list(known.joint_names)
    names = texts(path, "joint_names", small["joint_names"].ravel()).tolist()
    if len(names) != len(known.joint_names):
        raise SourceError(f"{path}: joint_names has {len(names)} names; X has {len(known.joint_names)} joints")
    return distinct(path, "joint_names", names)


def read_rows(place: Place, name: str) -> RawClip:
    """Read one clip of an array file."""
    with np.errstate(over="ignore"):  # becomes infinite, which stage absent reports
        x_TMVC = _part(place.rows, place, name).astype(np.float32)
    scores_TMV = _part(place.scores, place, name) if place.scores is not None else None
    return array_tracks(x_TMVC, scores_TMV, place.channels)


def _part(rows: Rows | np.ndarray, place: Place, name: str) -> np.ndarray:
    if isinstance(rows, Rows):
        return rows.read(place.start, place.stop, name)
    return rows[place.start : place.stop]


def _check_arrays(path: object, arrays: Arrays, small: Mapping[str, np.ndarray], labelled: bool) -> None:
    if missing := [key for key in KEYS if key not in arrays and (labelled or key != "label")]:
        raise SourceError(f"{path} has no {', '.join(missing)}; an array file has X (sum T, M, V, C), ptr and label")
    x, ptr = arrays["X"], small["ptr"]
    if len(x.shape) != 4 or x.shape[1] < 1 or x.dtype.kind not in "fiu":
        raise SourceError(f"{path}: X has shape {x.shape} of {x.dtype}; expected floats (sum T, M, V, 2 or 3)")
    if x.shape[2] < 3 and x.shape[1] > x.shape[2]:
        raise SourceError(
            f"{path}: X has shape {x.shape}: {x.shape[1]} bodies of {x.shape[2]} joints. The axes are (sum T, M, V, C);"
            " swap bodies and joints: X.swapaxes(1, 2)."
        )
    if "score" in arrays and arrays["score"].shape != x.shape[:3]:
        raise SourceError(f"{path}: score has shape {arrays['score'].shape}; expected (sum T, M, V) = {x.shape[:3]}")
    if ptr.ndim != 1 or len(ptr) < 2 or ptr[0] != 0 or ptr[-1] != x.shape[0] or bool(np.any(np.diff(ptr) < 0)):
        raise SourceError(f"{path}: ptr must ascend from 0 to {x.shape[0]}, the rows of X")
    for key in ("name", "subject", "view", "fold", "split"):
        if key in small and small[key].shape != (len(ptr) - 1,):
            raise SourceError(
                f"{path}: {key} has shape {small[key].shape}; expected one value for {len(ptr) - 1} clips"
            )
    if "name" in small and len(np.unique(small["name"])) != len(small["name"]):
        names, counts = np.unique(small["name"], return_counts=True)
        raise SourceError(f"{path}: clip name {str(names[counts > 1][0])!r} occurs twice")


def _channels(path: object, arrays: Arrays, reading: Reading) -> tuple[tuple[str, ...], bool]:
    """Return the coordinates of the last axis, and whether it also holds a score."""
    x = arrays["X"]
    if reading.channels:
        if reading.channels not in CHANNELS:
            raise SourceError(f"--channels {reading.channels!r} is unknown; choose one of {', '.join(CHANNELS)}")
        if len(reading.channels) != x.shape[3]:
            raise SourceError(
                f"{path}: --channels {reading.channels} names {len(reading.channels)} values; X has {x.shape[3]}"
            )
        return CHANNELS[reading.channels], reading.channels.endswith("s")
    if x.shape[3] not in (2, 3):
        raise SourceError(
            f"{path}: X has shape {x.shape} of {x.dtype}; expected floats (sum T, M, V, 2 or 3). If the last value is a"
            " score, say --channels xyzs."
        )
    if x.shape[3] == 3 and looks_scored(x.read(0, min(SAMPLE, x.shape[0])) if isinstance(x, Rows) else x[:SAMPLE]):
        raise SourceError(
            f"{path}: the third value of X looks like a score (0 to 1 beside pixels). Say --channels xys, or xyz if it"
            " is a coordinate."
        )
    return SPACE if x.shape[3] == 3 else IMAGE, False


def looks_scored(x: np.ndarray) -> bool:
    """Return whether the last of three values is a score: between 0 and 1, beside pixels."""
    pixels, last = np.abs(x[..., :2]), x[..., 2]
    return bool(pixels.size and pixels.max() > 16 and last.min() >= 0 and 0 < last.max() <= 1 and np.ptp(last) > 0)


def _has_copies(x: Rows | np.ndarray, ptr: np.ndarray) -> bool:
    """Return whether the second body of a clip equals the first, in a sample of clips."""
    if x.shape[1] < 2:
        return False
    clips = np.unique(np.linspace(0, len(ptr) - 2, SAMPLED_CLIPS).astype(np.int64))
    for start in ptr[clips[np.diff(ptr)[clips] > 0]]:
        one = x.read(int(start), int(start) + 1) if isinstance(x, Rows) else x[start : start + 1]
        if one[:, 0].any() and np.array_equal(one[:, 0], one[:, 1]):
            return True
    return False


def _labels(path: object, small: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, list[str]]:
    """Return (N,) labels and the names of the classes; clips without a label have label 0."""
    if "label" not in small:
        return np.zeros(count, np.int64), ["unknown"]
    label, classes = label_array(path, small["label"], count)
    if label.dtype.kind == "U":
        return number_texts(label.tolist())
    most = max(int(label.max()) + 1, classes)
    names = texts(path, "class_names", small["class_names"].ravel()).tolist() if "class_names" in small else []
    if names and most > len(names):
        raise SourceError(f"{path}: label {most - 1} has no class name; there are {len(names)}. Labels count from 0.")
    return label, distinct(path, "class_names", names) or [f"class {k}" for k in range(most)]


def _codes(values: np.ndarray) -> np.ndarray:
    """Return integers unchanged; number anything else from 1 in sorted order."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64) + 1


def _root(bones: np.ndarray) -> int:
    """Root joint: the first joint that has no parent."""
    roots = np.setdiff1d(bones[:, 0], bones[:, 1])
    return int(roots[0]) if len(roots) else 0


def _landmarks(
    path: object, small: Mapping[str, np.ndarray], bones: np.ndarray, joints: int, known: Layout
) -> Landmarks:
    """Reference joints: the root of the bones, and the joints that the file or the layout names."""
    pairs = {key: getattr(known, key) for key in ("shoulders", "spine")}
    for key in pairs:
        if key in small:
            pair = small[key].ravel()
            if len(pair) != 2 or pair.dtype.kind not in "iu" or not 0 <= pair.min() <= pair.max() < joints:
                raise SourceError(f"{path}: {key} must hold two joints, integers from 0 to {joints - 1}")
            pairs[key] = (int(pair[0]), int(pair[1]))
    return Landmarks(_root(bones), pairs["shoulders"], pairs["spine"])

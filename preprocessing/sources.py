"""Where clips come from: folders, zips read in place, array files of other data sets. Clips are read when asked for."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from preprocessing import ntu
from preprocessing.skeleton import RawClip, SkeletonError, Track, parse
from preprocessing.splits import Columns, Splits, array_splits, ntu_splits

SUFFIX = ".skeleton"
MAX_BYTES = 64 << 20
MAX_RATIO = 200
COLUMNS = ("label", "setup", "camera", "subject", "replication")


class SourceError(ValueError):
    """A source that cannot be used at all; one line for the user."""


@dataclass(frozen=True)
class Entry:
    """One clip of a source: `read` is called when its turn comes."""

    name: str
    origin: str
    columns: Mapping[str, int]  # COLUMNS
    read: Callable[[], RawClip]


@dataclass(frozen=True)
class Source:
    """Clips of one kind, sorted by name, with what is known about their bodies and splits."""

    dataset: str
    joint_names: list[str]
    bones: np.ndarray  # (V-1, 2) int64, (parent, child)
    fps: float
    class_names: list[str]
    centre_joint: int
    kinect: bool
    entries: list[Entry]
    missing: frozenset[str] = frozenset()  # names that are known to hold nothing
    unusable: list[SkeletonError] = field(default_factory=list)  # clips refused by their name alone
    given: Mapping[str, np.ndarray] = field(default_factory=dict)  # split columns of an array file, one value an entry

    def splits(self, kept: list[int], columns: Mapping[str, np.ndarray]) -> Splits:
        """The protocols of the clips that were kept (positions in `entries`), whose columns are given."""
        named = Columns(columns["label"], columns["subject"], columns["camera"])
        if self.kinect:
            return ntu_splits(columns["setup"], named)
        return array_splits({key: value[kept] for key, value in self.given.items()}, named)


def open_sources(paths: Iterable[Path]) -> Source:
    """One source out of folders and zips of `.skeleton` files, or out of one array file."""
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path} does not exist; name a folder, a .zip or an array .npz")
    arrays = [path for path in paths if path.suffix == ".npz"]
    if arrays and len(paths) > 1:
        raise SourceError(f"{arrays[0]} is an array file and must be the only source; build the others on their own")
    return _array_source(arrays[0]) if arrays else _ntu_source(paths)


def _ntu_source(paths: list[Path]) -> Source:
    entries: dict[str, Entry] = {}
    unusable: list[SkeletonError] = []
    for path in paths:
        for name, origin, read in _folder(path) if path.is_dir() else _zip(path):
            if name in entries:
                raise SourceError(f"clip {name} occurs twice: {entries[name].origin} and {origin}; remove one")
            try:
                sample = ntu.parse_name(name)
            except ValueError as error:
                unusable.append(SkeletonError(name, 0, "bad-name", str(error)))
                continue
            columns = dict(zip(COLUMNS, (sample.action - 1, *sample[:4]), strict=True))
            entries[name] = Entry(name, origin, columns, partial(_parse, name, read))
    if not entries and not unusable:
        raise SourceError(f"no {SUFFIX} files in {', '.join(map(str, paths))}")
    classes = 60 if all(entry.columns["label"] < 60 for entry in entries.values()) else 120
    return Source(
        dataset=f"ntu{classes}",
        joint_names=list(ntu.JOINT_NAMES),
        bones=ntu.BONES,
        fps=ntu.FPS,
        class_names=list(ntu.CLASS_NAMES[:classes]),
        centre_joint=ntu.CENTRE_JOINT,
        kinect=True,
        entries=[entries[name] for name in sorted(entries)],
        missing=ntu.MISSING,
        unusable=unusable,
    )


def _parse(name: str, read: Callable[[], bytes]) -> RawClip:
    return parse(read(), name)


Found = tuple[str, str, Callable[[], bytes]]  # clip name, where it lies, its bytes on demand


def _folder(folder: Path) -> Iterable[Found]:
    for path in sorted(folder.rglob("*" + SUFFIX)):
        if not path.name.startswith("."):
            yield path.stem, str(path), partial(_read_file, path)


def _read_file(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return _bounded(path.stem, file.read(MAX_BYTES + 1))
    except OSError as error:
        raise SkeletonError(path.stem, 0, "unreadable", str(error)) from None


def _zip(path: Path) -> Iterable[Found]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{path} is no readable zip ({error}); name a folder, a .zip or an array .npz") from None
    for member in archive.infolist():
        inside = PurePosixPath(member.filename)
        if inside.suffix == SUFFIX and not inside.name.startswith(".") and not member.is_dir():
            yield inside.stem, f"{path}:{member.filename}", partial(_read_member, archive, member, inside.stem)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    if member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise SkeletonError(name, 0, "too-compressed", f"expands more than {MAX_RATIO} times")
    try:
        with archive.open(member) as file:
            # The header may lie about the size, so no more than the limit is ever expanded.
            return _bounded(name, file.read(MAX_BYTES + 1))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise SkeletonError(name, 0, "unreadable", str(error)) from None


def _bounded(name: str, content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise SkeletonError(name, 0, "too-large", f"more than {MAX_BYTES >> 20} MiB")
    return content


def _array_source(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{path} is no readable array file ({error})") from None
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
    return Source(
        dataset=path.stem,
        joint_names=_texts(arrays, "joint_names", [f"joint {v}" for v in range(joints)]),
        bones=bones,
        fps=float(arrays.get("fps", ntu.FPS)),
        class_names=_texts(arrays, "class_names", [f"class {k}" for k in range(classes)]),
        centre_joint=_root(bones),
        kinect=False,
        entries=[
            Entry(
                str(names[i]),
                f"{path}[{i}]",
                {key: int(value[i]) for key, value in columns.items()},
                partial(_array_clip, x_RMV3[ptr[i] : ptr[i + 1]], str(names[i])),
            )
            for i in order
        ],
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
    """Integers as they are; anything else numbered from 1 in sorted order."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.unique(values, return_inverse=True)[1].astype(np.int64) + 1


def _texts(arrays: dict[str, Any], key: str, default: list[str]) -> list[str]:
    return [str(text) for text in arrays[key]] if key in arrays else default


def _root(bones: np.ndarray) -> int:
    """The joint that is nobody's child."""
    roots = np.setdiff1d(bones[:, 0], bones[:, 1])
    return int(roots[0]) if len(roots) else 0


def _array_clip(x_TMV3: np.ndarray, name: str) -> RawClip:
    """A clip of an array file; a body is absent where all its joints are exactly zero."""
    if not np.isfinite(x_TMV3).all():
        raise SkeletonError(name, 0, "non-finite")
    tracks = []
    for body in range(x_TMV3.shape[1]):
        frame_F = np.flatnonzero(x_TMV3[:, body].any(axis=(1, 2)))
        if len(frame_F):
            tracks.append(Track(body, frame_F, x_TMV3[frame_F, body]))
    return RawClip(len(x_TMV3), tuple(tracks))

"""Source of `.skeleton` files: folders, and zips read in place, with NTU RGB+D sample names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocessing import ntu
from preprocessing.skeleton import RawClip, SkeletonError, parse
from preprocessing.sources.entries import COLUMNS, ClipSource, Entry, SourceError
from preprocessing.sources.zips import MAX_BYTES, Packed, check_size, members
from preprocessing.stages.recipes import Landmarks

SUFFIX = ".skeleton"


def open_skeletons(paths: list[Path]) -> ClipSource:
    """Open folders and zips of `.skeleton` files as one source, sorted by name.

    Raises:
        SourceError: A zip is unreadable, there are no recordings, or a clip occurs twice.
    """
    found: dict[str, Entry] = {}
    for path in paths:
        for one in _folder(path) if path.is_dir() else _zip(path):
            if one.name in found:
                raise SourceError(
                    f"clip {one.name} occurs twice: {found[one.name].origin} and {one.origin}; remove one"
                )
            found[one.name] = one
    if not found:
        raise SourceError(f"no {SUFFIX} files in {', '.join(map(str, paths))}")
    entries: list[Entry] = []
    samples: list[ntu.SampleName] = []
    unusable: list[SkeletonError] = []
    for name in sorted(found):
        try:
            samples.append(ntu.parse_name(name))
        except ValueError as error:
            unusable.append(SkeletonError(name, 0, "bad-name", str(error)))
            continue
        entries.append(found[name])
    numbers_N5 = np.array(samples, np.int64).reshape(-1, 5)
    columns = dict(zip(COLUMNS, (numbers_N5[:, 4] - 1, *numbers_N5[:, :4].T), strict=True))
    classes = 60 if np.all(columns["label"] < 60) else 120
    return ClipSource(
        dataset=f"ntu{classes}",
        joint_names=list(ntu.JOINT_NAMES),
        bones=ntu.BONES,
        fps=ntu.FPS,
        class_names=list(ntu.CLASS_NAMES[:classes]),
        landmarks=Landmarks(ntu.CENTRE_JOINT, ntu.SHOULDERS, ntu.SPINE),
        kinect=True,
        entries=entries,
        columns=columns,
        missing=ntu.MISSING,
        unusable=unusable,
    )


def _clip_name(file_name: str) -> str:
    """Return the clip's name, or "" for a file that is not a recording: archivers add hidden files beside one."""
    return file_name[: -len(SUFFIX)] if file_name.lower().endswith(SUFFIX) and file_name[0] != "." else ""


def _folder(folder: Path) -> Iterator[Entry]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for file_name in names:
            if not (name := _clip_name(file_name)):
                continue
            path = os.path.join(parent, file_name)
            try:
                about = os.stat(path)
                size, stamp = about.st_size, about.st_mtime_ns
            except OSError:  # reading it later reports the error
                size, stamp = 0, 0
            yield Entry(name, path, size, stamp, _from_folder, path)


def _from_folder(path: str, name: str) -> RawClip:
    return parse(_read_file(path, name), name)


def _read_file(path: str, name: str) -> bytes:
    try:
        # Unbuffered, in one go: half the system calls of a buffered file.
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(name, size)
            content = file.read(size + 1) or b""
            while part := file.read(MAX_BYTES + 1 - len(content)):
                content += part
    except OSError as error:
        raise SkeletonError(name, 0, "unreadable", str(error)) from None
    check_size(name, len(content))
    return content


def _zip(path: Path) -> Iterator[Entry]:
    for member, packed in members(path, _clip_name):
        yield Entry(packed.name, f"{path}:{member}", packed.size, packed.crc, _from_zip, packed)


def _from_zip(packed: Packed, name: str) -> RawClip:
    return parse(packed.read(), name)

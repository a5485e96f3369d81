"""ST-GCN's and 2s-AGCN's arrays: `.npy` (N, C, T, V, M) beside a `_label.pkl` or `_label.npy`; or a folder of them.

NAME_data.npy and NAME_data_joint.npy belong to NAME_label.pkl; train, val and test in the name are the parts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from preprocessing.layouts import LAYOUTS
from preprocessing.skeleton import RawClip
from preprocessing.sources.array_files import Rows, memory, read_npy
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.folders import PARTS
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.label_arrays import label_array
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import array_tracks, selecting
from preprocessing.sources.trees import Tree
from preprocessing.sources.unpickle import LazyArray, PickleError, read_pickle

_DATA = re.compile(r"(?P<front>.*?)_?(data(_joint)?|joint)\.npy", re.IGNORECASE)


class Place(NamedTuple):
    """One clip in a file."""

    rows: Rows
    row: int
    channels: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree is or holds arrays with labels beside them, or is the labels of an array."""
    if tree.is_zip:
        return False
    if tree.is_folder:
        return any(_DATA.fullmatch(item.name) for item in tree.having(".npy"))
    return tree.head[:6] == b"\x93NUMPY" or bool(_data_of(tree.path))


def _data_of(path: Path) -> list[Path]:
    """Return the arrays that a file of labels belongs to."""
    front, word, _ = path.name.partition("_label")
    return [one for one in path.parent.glob(f"{front}_*.npy") if _DATA.fullmatch(one.name)] if word else []


def open_stgcn(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open arrays and their labels; SourceError names in one line what is missing."""
    paths: list[Path] = []
    for tree in trees:
        if tree.is_folder:
            paths += [tree.path / item.path for item in tree.having(".npy") if _DATA.fullmatch(item.name)]
        elif tree.path.suffix.lower() == ".npy":
            paths.append(tree.path)
        elif len(trees) == 1:
            paths += _data_of(tree.path)
    paths = [path for path in paths if not path.stem.lower().endswith("label")]
    clips: list[Found] = []
    members: dict[str, str] = {}
    shapes = set()
    for path in paths:
        rows = read_npy(path)
        if len(rows.shape) != 5 or rows.dtype.kind not in "fiu" or rows.shape[1] not in (2, 3):
            raise SourceError(f"{path} has shape {rows.shape} of {rows.dtype}; expected numbers (N, C, T, V, M)")
        _check_axes(path, rows.shape, reading)
        names, labels = _labels(path, rows.shape[0])
        shapes.add((rows.shape[1], rows.shape[3]))
        scored = _scored(rows, reading)
        part = next((part for part in PARTS if part in path.stem.lower().split("_")), "")
        stamp = path.stat().st_mtime_ns
        for row, (name, label) in enumerate(zip(names, labels, strict=True)):
            place = Place(rows, row, 2 if scored else rows.shape[1])
            clips.append(Found(Entry(name, f"{path}[{row}]", rows.row_bytes, stamp, read_clip, place), label=label))
            members[name] = part
    if len(shapes) != 1:
        raise SourceError(f"the arrays {', '.join(map(str, paths))} have different channels or joints: build one alone")
    ((width, joints),) = shapes
    channels = IMAGE if scored or width == 2 else SPACE
    several = len(set(members.values()) - {""}) > 1
    return labelled_source(
        trees, clips, keypoint_layout(paths[0], joints, channels, reading), reading, channels=channels,
        unit="px" if channels == IMAGE else "m", scores=scored, protocols={"split": members} if several else None,
        stages=selecting(rows.shape[4], scored, reading),
    )  # fmt: skip


def _check_axes(path: Path, shape: tuple[int, ...], reading: Reading) -> None:
    """Raise SourceError for arrays that are (N, M, T, V, C) or (N, C, V, T, M) by their shape."""
    if shape[1] == 2 and shape[4] == 3 and not reading.channels:
        raise SourceError(
            f"{path} has shape {shape}: three bodies in two dimensions. If the axes are (N, M, T, V, C), save"
            " x.transpose(0, 4, 2, 3, 1); else say --channels xy."
        )
    known = {len(layout.joint_names) for layout in LAYOUTS.values()}
    if shape[2] in known and shape[3] not in known and shape[3] > max(known) and not reading.layout:
        raise SourceError(
            f"{path} has shape {shape}: {shape[3]} joints in {shape[2]} frames. The axes are (N, C, T, V, M): save"
            " x.swapaxes(2, 3)."
        )


def _scored(rows: Rows, reading: Reading) -> bool:
    """Return whether the last channel is a score: as --channels says, else for 18 joints, as ST-GCN has Kinetics."""
    return reading.channels == "xys" or (not reading.channels and rows.shape[1] == 3 and rows.shape[3] == 18)


def _labels(path: Path, count: int) -> tuple[list[str], list[int | str]]:
    """Return the names and labels of the clips of an array."""
    match = _DATA.fullmatch(path.name)
    front = f"{match['front']}_" if match and match["front"] else ""
    places = [path.with_name(front + end) for end in ("label.pkl", "label.npy", "labels.npy")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise SourceError(f"{path} has no labels: put {places[0].name} (names, labels) or {places[1].name} beside it")
    if found.suffix == ".npy":
        names, labels = [f"{path.stem}-{i:06d}" for i in range(count)], memory(read_npy(found))
    else:
        try:
            document = read_pickle(found)
        except PickleError as error:
            raise SourceError(f"{found} is not a pickle of plain data: {error}. Nothing in it is run.") from None
        if not isinstance(document, tuple | list) or len(document) < 2:
            raise SourceError(f"{found} is a pickle of unknown contents; expected (names, labels)")
        names, labels = (one.load().tolist() if isinstance(one, LazyArray) else one for one in document[:2])
    if not isinstance(names, list | tuple) or not len(names) == len(labels) == count:
        raise SourceError(f"{found} has {len(names)} names and {len(labels)} labels; {path} has {count} clips")
    try:
        label_N, _ = label_array(found, np.asarray(labels), count)
    except ValueError as error:
        raise (
            error if isinstance(error, SourceError) else SourceError(f"{found}: labels are not one per clip")
        ) from None
    return [str(name).removesuffix(".skeleton") for name in names], label_N.tolist()


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip without the zeros at its end."""
    x_CTVM = place.rows.read(place.row, place.row + 1, name)[0].astype(np.float32)
    filled = np.flatnonzero(x_CTVM.any(axis=(0, 2, 3)))
    end = int(filled[-1]) + 1 if len(filled) else 1
    x_TMVC = x_CTVM[:, :end].transpose(1, 3, 2, 0)
    score_TMV = x_TMVC[..., place.channels] if x_TMVC.shape[3] > place.channels else None
    return array_tracks(x_TMVC[..., : place.channels], score_TMV)

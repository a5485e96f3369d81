"""pyskl's and mmaction2's annotations: a `.pkl` with keypoint, keypoint_score, label and named splits; 2D or 3D.

The pickle is read as plain data; nothing in it is run. Splits named xsub_train and xsub_val become protocol xsub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.arrays import looks_scored
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.folders import PARTS
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import array_tracks, selecting
from preprocessing.sources.trees import Tree
from preprocessing.sources.unpickle import LazyArray, PickleError, read_pickle

_SPLIT = re.compile(r"(?P<front>.*?)_?(?P<part>train|val|test)_?(?P<number>\d*)")
_EXPECTED = "expected a dict with annotations (and split), or a list of annotations, as pyskl writes it"


class Place(NamedTuple):
    """Arrays of one clip, whose values are still in the file."""

    keypoint: LazyArray
    score: LazyArray | None
    channels: int
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree is a pickle."""
    return not tree.is_folder and (tree.path.suffix.lower() in (".pkl", ".pickle") or tree.head[:1] == b"\x80")


def open_pyskl(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open one annotation file; SourceError names in one line what is wrong with it."""
    (tree,) = trees
    path = tree.path
    annotations, splits = _document(path)
    shapes = [_keypoint(path, number, annotation) for number, annotation in enumerate(annotations)]
    joints, width = shapes[0].shape[2:]
    sample = _load(shapes[0], path.stem)
    inside = reading.channels == "xys" or (not reading.channels and width == 3 and looks_scored(sample))
    channels = IMAGE if inside or width == 2 else SPACE
    scored = inside or any("keypoint_score" in annotation for annotation in annotations)
    stamp = path.stat().st_mtime_ns
    clips = []
    for number, (annotation, keypoint) in enumerate(zip(annotations, shapes, strict=True)):
        score = annotation.get("keypoint_score")
        if score is not None and (not isinstance(score, LazyArray) or score.shape != keypoint.shape[:3]):
            raise SourceError(f"{path}: keypoint_score of annotation {number} does not fit keypoint {keypoint.shape}")
        name = str(annotation.get("frame_dir", annotation.get("filename", f"{path.stem}-{number:06d}")))
        size = 4 * int(np.prod(keypoint.shape))
        place = Place(keypoint, score, len(channels), joints)
        label = _label(path, number, annotation.get("label"))
        clips.append(
            Found(
                Entry(name, f"{path}[{number}]", size, stamp, read_clip, place),
                label=label,
            )
        )
    most = max(shape.shape[0] for shape in shapes)
    return labelled_source(
        trees, clips, keypoint_layout(path, joints, channels, reading), reading, channels=channels,
        unit="px" if channels == IMAGE else "m", scores=scored,
        protocols=_protocols(path, splits), stages=selecting(most, scored, reading),
    )  # fmt: skip


def _document(path: Path) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Return annotations and splits."""
    try:
        document = read_pickle(path)
    except PickleError as error:
        raise SourceError(
            f"{path} is not a pickle of plain data: {error}. Only dicts, lists, numbers, text and NumPy arrays are"
            " read, and nothing is run; save it in that form."
        ) from None
    splits: Any = {}
    if isinstance(document, dict):
        splits, document = document.get("split") or {}, document.get("annotations")
    if isinstance(document, tuple | list) and len(document) > 1 and isinstance(document[0], list | LazyArray):
        array = path.name.partition("_label")[0] + "_data.npy"
        raise SourceError(
            f"{path} holds names and labels of ST-GCN's arrays, without the arrays. Put {array} beside it."
        )
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise SourceError(f"{path} is a pickle of unknown contents: {_EXPECTED}")
    if not document:
        raise SourceError(f"{path} contains no clips")
    return document, splits


def _keypoint(path: Path, number: int, annotation: Mapping[str, Any]) -> LazyArray:
    keypoint = annotation.get("keypoint")
    if not isinstance(keypoint, LazyArray) or len(keypoint.shape) != 4 or keypoint.dtype.kind not in "fiu":
        found = keypoint.shape if isinstance(keypoint, LazyArray) else type(keypoint).__name__
        raise SourceError(f"{path}: keypoint of annotation {number} is {found}; expected an array (M, T, V, 2 or 3)")
    if keypoint.shape[3] not in (2, 3) or not all(keypoint.shape[1:]):
        raise SourceError(
            f"{path}: keypoint of annotation {number} has shape {keypoint.shape}; expected (M, T, V, 2 or 3)"
        )
    return keypoint


def _label(path: Path, number: int, label: Any) -> int | str | None:
    """Return a label as a number or text; None where the annotation has none."""
    if label is None or isinstance(label, str):
        return label
    if isinstance(label, int | float) and float(label).is_integer():
        return int(label)
    raise SourceError(
        f"{path}: label of annotation {number} is {str(label)[:40]!r}: must be an integer from 0, or text."
    )


def _protocols(path: Path, splits: Any) -> dict[str, dict[str, str]]:
    """Return protocol -> clip name -> part."""
    if not isinstance(splits, dict):
        raise SourceError(f"{path}: split must be a dict of lists of clip names")
    protocols: dict[str, dict[str, str]] = {}
    for key, members in splits.items():
        match = _SPLIT.fullmatch(str(key))
        if not match or not isinstance(members, list | tuple):
            raise SourceError(f"{path}: split {str(key)[:40]!r} is unknown; use NAME_{', NAME_'.join(PARTS)}")
        protocol = protocols.setdefault((match["front"] + match["number"]) or "split", {})
        for name in members:
            if protocol.setdefault(str(name), match["part"]) != match["part"]:
                raise SourceError(f"{path}: clip {name} is in {protocol[str(name)]} and in {match['part']} of {key!r}")
    return protocols


def _load(array: LazyArray, name: str) -> np.ndarray:
    try:
        return array.load()
    except (PickleError, OSError, UnicodeError) as error:
        raise SkeletonError(name, 0, "unreadable", str(error)) from None


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it has other joints than the first."""
    if place.keypoint.shape[2] != place.joints:
        message = f"{place.keypoint.shape[2]} joints; the first clip has {place.joints}"
        raise SkeletonError(name, 0, "joint-count", message)
    x_TMVC = _load(place.keypoint, name).astype(np.float32).swapaxes(0, 1)
    score_TMV = _load(place.score, name).swapaxes(0, 1) if place.score is not None else None
    return array_tracks(x_TMVC, score_TMV, place.channels)

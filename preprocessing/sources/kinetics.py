"""Kinetics-skeleton, as ST-GCN publishes it: one JSON file per clip with data (frame_index, skeleton) and label."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.documents import begins_with, fault, first_json, read_json
from preprocessing.sources.entries import IMAGE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import Person, linked_clip, selecting
from preprocessing.sources.trees import Item, Tree
from preprocessing.sources.zips import Packed

MOST_FRAMES = 1_000_000


class Place(NamedTuple):
    """One file."""

    file: str | Packed
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds JSON files of Kinetics-skeleton."""
    return begins_with(tree, b'"data"', b'"skeleton"')


def open_kinetics(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of Kinetics-skeleton."""
    items = [item for tree in trees for item in tree.having(".json")]
    items = [item for item in items if not item.stem.endswith("_label")]  # an index of all clips
    first_json(items)
    joints = next((count for item in items if (count := _joints(item))), 0)
    if not joints:
        raise SourceError("no frame of these JSON files has a skeleton")
    clips = [
        Found(
            Entry(item.stem, item.origin, item.size, item.stamp, read_clip, Place(item.place, joints)),
            item.path,
            _label(item),
        )
        for item in items
    ]
    layout = keypoint_layout(str(trees[0].path), joints, IMAGE, reading)
    return labelled_source(
        trees, clips, layout, reading, channels=IMAGE, unit="px", scores=True, stages=selecting(3, True, reading)
    )


def _frames(document: Any, name: str) -> list[dict[str, Any]]:
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list) or not all(isinstance(frame, dict) for frame in data):
        raise fault(name, "no list data; expected a JSON object as ST-GCN publishes it")
    return data


def _joints(item: Item) -> int:
    try:
        frames = _frames(read_json(item.place, item.stem), item.stem)
        return next((len(one["pose"]) // 2 for frame in frames for one in frame.get("skeleton", [])), 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return 0


def _label(item: Item) -> str | None:
    try:
        document = read_json(item.place, item.stem)
    except ValueError:  # reading it later reports the error
        return None
    label = document.get("label") if isinstance(document, dict) else None
    return label if isinstance(label, str) else None


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it is damaged or has other joints than the first."""
    data = _frames(read_json(place.file, name), name)
    try:
        numbers = [int(frame["frame_index"]) for frame in data]
        first = min(numbers, default=0)
        last = max(numbers, default=-1)
        if last - first > MOST_FRAMES:
            raise fault(name, f"frame_index {last} is out of range")
        frames: list[list[Person]] = [[] for _ in range(last - first + 1)]
        for number, frame in zip(numbers, data, strict=True):
            for one in frame.get("skeleton", []):
                x_V2 = np.array(one["pose"], np.float32).reshape(-1, 2)
                score_V = np.array(one["score"], np.float32)
                if len(x_V2) != place.joints or score_V.shape != (place.joints,):
                    raise fault(name, f"a skeleton has {len(x_V2)} joints; the first has {place.joints}")
                frames[number - first].append(Person(x_V2, score_V))
    except SkeletonError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise fault(name, f"a frame has no valid frame_index, pose or score ({error})") from None
    return linked_clip(frames, name)

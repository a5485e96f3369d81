"""OpenPose: a folder per clip with one JSON file per frame (NAME_000000000012_keypoints.json).

Joints with score 0 are absent. People are linked over frames by person_id, or by distance where there is none.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from preprocessing.skeleton import RawClip
from preprocessing.sources.documents import begins_with, fault, first_json, read_json
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import Person, linked_clip, selecting
from preprocessing.sources.trees import Item, Tree
from preprocessing.sources.zips import Packed

_FILE = re.compile(r"(?P<front>.*?)[_-]?(?P<frame>\d+)(_keypoints)?\.json", re.IGNORECASE)
KEYS = {IMAGE: "pose_keypoints_2d", SPACE: "pose_keypoints_3d"}


class Place(NamedTuple):
    """Frames of one clip in order: number and file."""

    files: tuple[tuple[int, str | Packed], ...]
    channels: tuple[str, ...]
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds JSON files of OpenPose."""
    return begins_with(tree, b'"people"')


def open_openpose(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders or zips of OpenPose's JSON files."""
    items = [item for tree in trees for item in tree.having(".json")]
    channels, joints = _shape(items)
    layout = keypoint_layout(str(trees[0].path), joints, channels, reading)
    clips = []
    for name, path, frames in _clips(items):
        files = tuple((number, item.place) for number, item in frames)
        first = frames[0][1]
        entry = Entry(
            name, first.origin.rpartition("/")[0] or first.origin, sum(item.size for _, item in frames),
            max(item.stamp for _, item in frames), read_clip, Place(files, channels, joints),
        )  # fmt: skip
        clips.append(Found(entry, path))
    return labelled_source(
        trees, clips, layout, reading, channels=channels, unit="px" if channels == IMAGE else "m", scores=True,
        stages=selecting(3, True, reading),
    )  # fmt: skip


def _shape(items: list[Item]) -> tuple[tuple[str, ...], int]:
    """Return the coordinates and the number of joints, by the first person that is found."""
    first_json(items)  # its error if no file can be read
    for item in items:
        try:
            people = _people(read_json(item.place, item.stem), item.stem)
        except ValueError:
            continue
        for channels, key in KEYS.items():
            width = len(channels) + 1
            for person in people:
                if (values := person.get(key)) and len(values) % width == 0:
                    return channels, len(values) // width
    raise SourceError("no frame of OpenPose's JSON files has a person")


def _clips(items: list[Item]) -> list[tuple[str, str, list[tuple[int, Item]]]]:
    """Group frames into (name, path, frames): a folder is a clip, or the front of the names where one holds several."""
    groups: dict[tuple[str, str], list[tuple[int, Item]]] = {}
    for item in items:
        match = _FILE.fullmatch(item.name)
        if match:
            groups.setdefault((item.folder, match["front"]), []).append((int(match["frame"]), item))
    folders = Counter(folder for folder, _ in groups)
    clips = []
    for (folder, front), frames in groups.items():
        last = folder.rpartition("/")[2]
        alone = bool(folder) and folders[folder] == 1
        name = last if alone else front or last or "clip"
        clips.append(
            (name, folder if alone else f"{folder}/{name}".lstrip("/"), sorted(frames, key=lambda one: one[0]))
        )
    return clips


def _people(document: Any, name: str) -> list[dict[str, Any]]:
    people = document.get("people") if isinstance(document, dict) else None
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise fault(name, "no list of people; expected a JSON object as OpenPose writes it")
    return people


def read_clip(place: Place, name: str) -> RawClip:
    """Read the frames of one clip; a frame whose file is missing has no person."""
    first, last = place.files[0][0], place.files[-1][0]
    # A number that is not a frame count (a time stamp) would make a clip of mostly nothing.
    dense = last - first < 10 * len(place.files)
    frames: list[list[Person]] = [[] for _ in range(last - first + 1 if dense else len(place.files))]
    for position, (number, file) in enumerate(place.files):
        for person in _people(read_json(file, name), name):
            if found := _person(person, place, name):
                frames[number - first if dense else position].append(found)
    return linked_clip(frames, name)


def _person(person: dict[str, Any], place: Place, name: str) -> Person | None:
    values = person.get(KEYS[place.channels]) or []
    width = len(place.channels) + 1
    if not values:
        return None
    if len(values) != place.joints * width:
        raise fault(name, f"{len(values)} values of a person; the first has {place.joints * width}")
    try:
        x_VC = np.array(values, np.float32).reshape(place.joints, width)
    except (TypeError, ValueError):
        raise fault(name, "a value of a person is not a number") from None
    identity = person.get("person_id")
    known = identity[0] if isinstance(identity, list) and identity and isinstance(identity[0], int) else -1
    return Person(x_VC[:, :-1], x_VC[:, -1], known if known >= 0 else None)

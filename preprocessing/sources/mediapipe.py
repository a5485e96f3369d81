"""MediaPipe: JSON of landmarks (x, y, z, visibility), one file per clip with a list of frames, or one file per frame.

Landmarks in metres (world landmarks) are preferred to those in shares of the image. Visibility becomes the score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from preprocessing import ntu
from preprocessing.skeleton import RawClip
from preprocessing.sources.documents import begins_with, fault, read_json
from preprocessing.sources.entries import IMAGE, SPACE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import Person, check_rate, linked_clip, rate, selecting
from preprocessing.sources.trees import HEAD, Item, Tree
from preprocessing.sources.zips import Packed

FRAMES = ("frames", "data", "results", "poses", "sequence")
WORLD = ("pose_world_landmarks", "poseWorldLandmarks", "worldLandmarks", "world_landmarks")
PEOPLE = (
    *WORLD,
    "pose_landmarks",
    "poseLandmarks",
    "landmarks",
    "landmark",
    "keypoints3D",
    "keypoints_3d",
    "keypoints",
    "pose",
)
METRES = (*WORLD, "keypoints3D", "keypoints_3d")
FPS = ("fps", "FPS", "frame_rate", "frameRate", "framerate", "ticksPerSecond")
IMAGE_KEYS = ("pose_landmarks", "poseLandmarks", "keypoints")  # in shares of the image, or pixels
TIMES = ("timestamp_ms", "timestampMs", "timestamp", "time")
SCORES = ("visibility", "score", "presence", "confidence")
DEPTH = 6  # of nested lists and objects
_NUMBERED = re.compile(r"(?P<front>.*?)[_-]?(?P<frame>\d+)")


class Place(NamedTuple):
    """Files of one clip, in order."""

    files: tuple[str | Packed, ...]
    channels: tuple[str, ...]
    joints: int
    scored: bool
    fps: float  # that other files must have; 0: any


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds JSON files of landmarks."""
    return any(begins_with(tree, word) for word in (b'"visibility"', b"andmarks", b"andmark", b'"keypoints3D"'))


def open_mediapipe(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of landmarks."""
    items = [item for tree in trees for item in tree.having(".json")]
    first, document = _first(items)
    joints, channels, scored = len(first), _channels(first), _score(first[0]) is not None
    fps = _fps(document)
    clips = []
    for name, path, files in _clips(items, _is_frame(document)):
        place = Place(tuple(item.place for item in files), channels, joints, scored, 0.0 if reading.fps else fps)
        size, stamp = sum(item.size for item in files), max(item.stamp for item in files)
        clips.append(Found(Entry(name, files[0].origin, size, stamp, read_clip, place), path))
    layout = keypoint_layout(str(trees[0].path), joints, channels, reading)
    return labelled_source(
        trees, clips, layout, reading, channels=channels, unit="m" if _in_metres(first, document) else "px",
        scores=scored, fps=fps or ntu.FPS, stages=selecting(3, scored, reading),
    )  # fmt: skip


def _first(items: Sequence[Item]) -> tuple[list[Any], Any]:
    """Return the first person that is found, and the document that has it."""
    fault_of_first = ""
    for item in items:
        try:
            document = read_json(item.place, item.stem)
            for people in frames_of(document, item.stem):
                if people:
                    return people[0], document
        except ValueError as error:
            fault_of_first = fault_of_first or str(error)
    raise SourceError(fault_of_first or "no frame of these JSON files has landmarks")


def _in_metres(person: list[Any], document: Any) -> bool:
    """Return whether landmarks are world landmarks: by their key, else by their origin between the hips."""
    text = json.dumps(document)[:HEAD]
    if any(f'"{key}"' in text for key in METRES):
        return True
    if len(_channels(person)) == 2 or any(f'"{key}"' in text for key in IMAGE_KEYS):
        return False
    values = [[one[axis] for axis in "xy"] if isinstance(one, dict) else one[:2] for one in person]
    return any(float(value) < -0.05 for point in values for value in point)  # shares of the image are positive


def _fps(document: Any) -> float:
    """Return the frames per second that a document names, or the times of its frames tell; 0 if it does not say."""
    value = next((document[key] for key in FPS if key in document), None) if isinstance(document, dict) else None
    fps = float(value) if isinstance(value, int | float) else 0.0
    if 0 < fps < 1000:
        return fps
    frames = (
        next((document[key] for key in FRAMES if key in document), None) if isinstance(document, dict) else document
    )
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        return 0.0
    times = [next((frame[key] for key in TIMES if key in frame), None) for frame in frames]
    return rate(np.array(times, np.float64)) if times and all(map(_is_number, times)) else 0.0


def _clips(items: Sequence[Item], single: bool) -> list[tuple[str, str, list[Item]]]:
    """Return (name, path, files) of each clip: a file, or the files of a folder whose files are frames."""
    if not single:
        return [(item.stem, item.path, [item]) for item in items]
    groups: dict[tuple[str, str], list[tuple[int, Item]]] = {}
    for item in items:
        match = _NUMBERED.fullmatch(item.stem)
        front, number = (match["front"], int(match["frame"])) if match else (item.stem, 0)
        groups.setdefault((item.folder, front), []).append((number, item))
    folders = [folder for folder, _ in groups]
    return [
        (
            folder.rpartition("/")[2] if folder and folders.count(folder) == 1 else front or "clip",
            folder or front,
            [item for _, item in sorted(frames, key=lambda frame: frame[0])],
        )
        for (folder, front), frames in groups.items()
    ]


def _is_landmark(value: Any) -> bool:
    if isinstance(value, dict):
        return "x" in value and "y" in value
    return isinstance(value, list) and 2 <= len(value) <= 5 and all(_is_number(number) for number in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_person(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(_is_landmark(one) for one in value)


def _listed(value: Any) -> Any:
    """Return landmarks that are numbered by keys ("0", "1", ...) as a list, anything else as it is."""
    if isinstance(value, dict) and len(value) > 1 and all(key.isdecimal() for key in value):
        return [value[key] for key in sorted(value, key=int)]
    return value


def _is_frame(document: Any) -> bool:
    """Return whether a document is one frame."""
    if isinstance(document, dict):
        return not any(key in document for key in FRAMES)
    return _is_person(document)


def frames_of(document: Any, name: str) -> list[list[list[Any]]]:
    """Return the people of each frame of a document, each a list of landmarks; SkeletonError for another form."""
    if isinstance(document, dict) and (key := next((key for key in FRAMES if key in document), "")):
        document = document[key]
    if _is_frame(document):
        return [people_of(document, name)]
    if not isinstance(document, list):
        raise fault(name, "no list of frames; expected landmarks as MediaPipe returns them")
    return [people_of(frame, name) for frame in document]


def people_of(frame: Any, name: str, depth: int = 0) -> list[list[Any]]:
    """Return the people of one frame; SkeletonError for another form."""
    frame = _listed(frame)
    if frame is None or frame == [] or frame == {}:
        return []
    if _is_person(frame):
        return [frame]
    if depth < DEPTH and isinstance(frame, dict):
        key = next((key for key in PEOPLE if frame.get(key)), "")
        if key or any(key in frame for key in PEOPLE):
            return people_of(frame.get(key), name, depth + 1) if key else []
    elif depth < DEPTH and isinstance(frame, list):
        return [person for one in frame for person in people_of(one, name, depth + 1)]
    raise fault(name, "a frame has no landmarks; expected lists of x, y, z and visibility")


def _channels(person: list[Any]) -> tuple[str, ...]:
    first = person[0]
    return SPACE if (("z" in first) if isinstance(first, dict) else len(first) > 2) else IMAGE


def _score(landmark: Any) -> float | None:
    if isinstance(landmark, dict):
        return next((landmark[key] for key in SCORES if key in landmark), None)
    return landmark[3] if len(landmark) > 3 else None


def read_clip(place: Place, name: str) -> RawClip:
    """Read one clip; SkeletonError if it is damaged or has other landmarks than the first."""
    documents = [read_json(file, name) for file in place.files]
    for document in documents:
        check_rate(name, _fps(document), place.fps)
    frames = [people for document in documents for people in frames_of(document, name)]
    return linked_clip([[_person(person, place, name) for person in people] for people in frames], name)


def _person(person: list[Any], place: Place, name: str) -> Person:
    if len(person) != place.joints:
        raise fault(name, f"{len(person)} landmarks; the first person has {place.joints}")
    try:
        rows = [
            [one[key] for key in place.channels] if isinstance(one, dict) else one[: len(place.channels)]
            for one in person
        ]
        x_VC = np.array(rows, np.float32)
        score_V = np.array([_score(one) for one in person], np.float32) if place.scored else None
    except (KeyError, TypeError, ValueError):
        raise fault(name, "a landmark has no number for a coordinate or its visibility") from None
    return Person(x_VC, score_V)

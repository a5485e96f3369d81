"""COCO keypoints: JSON with images, annotations (keypoints: x, y, v) and categories, or a list of results with score.

A file is a clip, unless its images name videos (video_id, or folders in file_name). Joints with v = 0 are absent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from preprocessing.layouts import Layout
from preprocessing.skeleton import RawClip, SkeletonError
from preprocessing.sources.documents import begins_with, fault, read_json
from preprocessing.sources.entries import IMAGE, ClipSource, Entry, Reading, SourceError
from preprocessing.sources.keypoints import keypoint_layout
from preprocessing.sources.labels import Found, labelled_source
from preprocessing.sources.tracks import Person, linked_clip, selecting
from preprocessing.sources.trees import Item, Tree

VIDEO_KEYS = ("video_id", "vid_id", "video")
TRACK_KEYS = ("track_id", "idx", "person_id")


class Place(NamedTuple):
    """People of one clip, frame by frame: joints with visibility or score, and the identity that the file gives."""

    frames: tuple[tuple[tuple[np.ndarray, int | None], ...], ...]
    joints: int


def accepts(tree: Tree) -> bool:
    """Return whether a tree holds JSON files of COCO's forms."""
    return begins_with(tree, b'"images"', b'"annotations"') or begins_with(tree, b'"image_id"', b'"keypoints"')


def open_coco(trees: list[Tree], reading: Reading) -> ClipSource:
    """Open folders, zips or files of COCO keypoints."""
    clips: list[Found] = []
    unusable: list[SkeletonError] = []
    layouts: list[Layout] = []
    for tree in trees:
        for item in tree.having(".json"):
            try:
                document = read_json(item.place, item.stem)
                people, layout = _people(document, item)
            except SkeletonError as error:
                unusable.append(error)
                continue
            layouts += [layout] if layout else []
            clips += [_found(name, frames, item) for name, frames in people.items()]
    if not clips:
        raise SourceError(str(unusable[0]) if unusable else "no annotation of these JSON files has keypoints")
    joints = next((len(one) for clip in clips for frame in clip.entry.place.frames for one, _ in frame), 0)
    named = next((layout for layout in layouts if len(layout.joint_names) == joints), None)
    layout = keypoint_layout(str(trees[0].path), joints, IMAGE, reading)
    if named and not reading.layout and not layout.name:
        layout = named
    clips = [clip._replace(entry=clip.entry._replace(place=Place(clip.entry.place.frames, joints))) for clip in clips]
    source = labelled_source(
        trees, clips, layout, reading, channels=IMAGE, unit="px", scores=True, stages=selecting(3, True, reading)
    )
    source.unusable.extend(unusable)
    return source


def _found(name: str, frames: dict[Any, list[tuple[np.ndarray, int | None]]], item: Item) -> Found:
    ordered = tuple(tuple(frames[key]) for key in sorted(frames))
    size = sum(joints.nbytes for frame in ordered for joints, _ in frame)
    place = Place(ordered, 0)
    return Found(Entry(name, f"{item.origin}[{name}]", size, item.stamp, read_clip, place), item.path)


def _people(document: Any, item: Item) -> tuple[dict[str, dict[Any, list]], Layout | None]:
    """Return clip -> frame -> people of a document, and the layout that its categories describe."""
    name = item.stem
    try:
        if isinstance(document, dict):
            images = {image["id"]: image for image in document["images"]}
            annotations = document["annotations"]
            layout = _category(document.get("categories") or [])
        else:
            annotations, layout = document, None
            images = {one["image_id"]: {"file_name": str(one["image_id"])} for one in annotations}
        people: dict[str, dict[Any, list]] = {}
        keys = {image: _frame(about, image, name) for image, about in images.items()}
        for clip, frame in keys.values():
            people.setdefault(clip, {}).setdefault(frame, [])
        for one in annotations:
            if not one.get("keypoints"):
                continue
            joints = np.array(one["keypoints"], np.float32).reshape(-1, 3)
            identity = next((one[key] for key in TRACK_KEYS if isinstance(one.get(key), int)), None)
            if one["image_id"] not in keys:
                raise fault(name, f"images has no id {one['image_id']}, which an annotation names")
            clip, frame = keys[one["image_id"]]
            people[clip][frame].append((joints, identity))
    except SkeletonError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise fault(name, f"not COCO keypoints ({type(error).__name__}: {error})") from None
    return {clip: frames for clip, frames in people.items() if any(frames.values())}, layout


def _frame(about: dict[str, Any], image: Any, name: str) -> tuple[str, tuple[Any, ...]]:
    """Return the clip of an image, and what its frames are sorted by."""
    file = str(about.get("file_name", image))
    video = next((about[key] for key in VIDEO_KEYS if key in about), None)
    clip = str(video) if video is not None else file.replace("\\", "/").rpartition("/")[0].rpartition("/")[2] or name
    number = about.get("frame_id", about.get("frame_index"))
    if isinstance(number, int):
        return clip, (number, "")
    digits = "".join(letter for letter in file.rpartition("/")[2] if letter.isdigit())
    return clip, (int(digits) if digits and len(digits) < 19 else 0, file)


def _category(categories: list[dict[str, Any]]) -> Layout | None:
    """Return the layout of the first category with keypoints; its bones only if they are a tree."""
    for category in categories:
        names = category.get("keypoints")
        if names:
            return Layout("", tuple(str(name).replace("_", " ") for name in names), ())
    return None


def read_clip(place: Place, name: str) -> RawClip:
    """Link the people of one clip; SkeletonError if one has other joints than the first."""
    frames: list[list[Person]] = []
    for people in place.frames:
        frames.append([])
        identities = [identity for _, identity in people]
        for joints_V3, identity in people:
            if len(joints_V3) != place.joints:
                raise fault(name, f"{len(joints_V3)} keypoints; the first person has {place.joints}")
            score_V = joints_V3[:, 2]
            # v is 0, 1 (hidden) or 2 (visible) in annotations, a score in results.
            if np.isin(score_V, (0, 1, 2)).all():
                score_V = np.minimum(score_V, 1)
            known = identity if identities.count(identity) == 1 else None
            frames[-1].append(Person(joints_V3[:, :2], score_V, known))
    return linked_clip(frames, name)

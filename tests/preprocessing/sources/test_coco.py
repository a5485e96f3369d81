"""COCO keypoints: annotations of videos, and lists of results."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources
from tests.preprocessing.sources.formats import only, walk, write_json


def annotations(x_TV2: np.ndarray, visible: int = 2, **extra: object) -> dict:
    images = [{"id": 10 + t, "file_name": f"{t:06d}.jpg"} | extra for t in range(len(x_TV2))]
    marks_TV3 = np.concatenate([x_TV2, np.full((*x_TV2.shape[:2], 1), visible)], -1)
    people = [
        {"id": t, "image_id": 10 + t, "category_id": 1, "keypoints": one.ravel().tolist(), "num_keypoints": 17}
        for t, one in enumerate(marks_TV3)
    ]
    return {"info": {}, "images": images, "annotations": people, "categories": []}


def test_a_file_is_a_clip(tmp_path: Path) -> None:
    for number, name in enumerate(["wave_1", "jump_1"]):
        write_json(tmp_path / f"{name}.json", annotations(walk(8, 17, number, 2)))
    source = open_sources([tmp_path])
    assert source.class_names == ["jump", "wave"]
    assert source.joint_names[5] == "left shoulder"
    for entry, number in zip(source.entries, (1, 0), strict=True):
        assert np.array_equal(only(entry.read()), walk(8, 17, number, 2))


def test_a_joint_that_is_not_labelled_is_absent_and_a_hidden_one_is_present(tmp_path: Path) -> None:
    document = annotations(walk(8, 17, 0, 2))
    document["annotations"][3]["keypoints"][3:6] = [0, 0, 0]
    document["annotations"][3]["keypoints"][8] = 1
    write_json(tmp_path / "wave_1.json", document)
    (track,) = open_sources([tmp_path / "wave_1.json"]).entries[0].read().tracks
    assert track.tracked_FV is not None
    assert np.argwhere(track.tracked_FV == 0).tolist() == [[3, 1]]


def test_images_of_several_videos_are_several_clips(tmp_path: Path) -> None:
    one, other = (annotations(walk(5, 17, number, 2), video_id=number) for number in (0, 1))
    for image in other["images"]:
        image["id"] += 100
    for person in other["annotations"]:
        person["image_id"] += 100
    both = {key: one[key] + other[key] for key in ("images", "annotations", "categories")}
    write_json(tmp_path / "all.json", both)
    (tmp_path / "labels.csv").write_text("clip,label\n0,wave\n1,jump\n")
    source = open_sources([tmp_path])
    assert [entry.name for entry in source.entries] == ["0", "1"]
    assert np.array_equal(only(source.entries[1].read()), walk(5, 17, 1, 2))


def test_results_with_identities_are_tracks(tmp_path: Path) -> None:
    a, b = walk(4, 17, 0, 2), walk(4, 17, 1, 2)
    results = [
        {"image_id": f"{t}.jpg", "category_id": 1, "score": 2.5, "idx": number,
         "keypoints": np.concatenate([x[t], np.full((17, 1), 0.5)], 1).ravel().tolist()}
        for t in range(4) for number, x in ((1, a), (2, b))
    ]  # fmt: skip
    write_json(tmp_path / "fight_1.json", results)
    tracks = open_sources([tmp_path / "fight_1.json"]).entries[0].read().tracks
    assert np.array_equal(tracks[0].joints_FV3, a)
    assert np.array_equal(tracks[1].joints_FV3, b)
    assert np.all(tracks[0].tracked_FV == np.float16(0.5))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    document = annotations(walk(4, 17, 0, 2))
    del document["annotations"][0]["image_id"]
    write_json(tmp_path / "bad_1.json", document)
    with pytest.raises(SourceError, match="bad-form: not COCO keypoints"):
        open_sources([tmp_path / "bad_1.json"])
    write_json(tmp_path / "wave_1.json", annotations(walk(4, 17, 0, 2)))
    write_json(tmp_path / "wave_2.json", annotations(walk(4, 16, 0, 2)))
    source = open_sources([tmp_path])
    assert [error.name for error in source.unusable] == ["bad_1"]
    with pytest.raises(SkeletonError, match="16 keypoints; the first person has 17"):
        source.entries[1].read()


def test_an_annotation_of_no_image_is_named(tmp_path: Path) -> None:
    one = {"image_id": 7, "category_id": 1, "keypoints": [1, 2, 2] * 17}
    write_json(tmp_path / "a_1.json", {"images": [{"id": 1, "file_name": "a/1.jpg"}], "annotations": [one]})
    with pytest.raises(SourceError, match="images has no id 7, which an annotation names"):
        open_sources([tmp_path])

"""MediaPipe's landmarks in the forms in which people save them."""

import json
from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import Reading, SourceError, open_sources
from tests.preprocessing.sources.formats import only, walk, write_json


def landmarks(x_V3: np.ndarray, visibility: float = 0.5) -> list[dict]:
    return [dict(zip("xyz", map(float, one), strict=True)) | {"visibility": visibility} for one in x_V3]


FORMS = {
    "a list of frames": lambda x: [landmarks(one) for one in x],
    "frames of an object": lambda x: {"frames": [{"frame": t, "landmarks": landmarks(o)} for t, o in enumerate(x)]},
    "one list per person": lambda x: [{"landmarks": [landmarks(o * 0)], "worldLandmarks": [landmarks(o)]} for o in x],
    "solutions": lambda x: [{"pose_landmarks": {"landmark": landmarks(one)}} for one in x],
    "numbered": lambda x: [{str(j): one for j, one in enumerate(landmarks(o))} for o in x],
    "plain numbers": lambda x: {"landmarks": None, "frames": [[[*map(float, p), 0.5] for p in o] for o in x]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_clips_equal_the_landmarks_in_every_form(tmp_path: Path, form: str) -> None:
    for number, name in enumerate(["wave_1", "jump_1"]):
        write_json(tmp_path / f"{name}.json", FORMS[form](walk(7, 33, number)))
    source = open_sources([tmp_path])
    assert source.class_names == ["jump", "wave"]
    assert source.joint_names[11] == "left shoulder"
    assert (source.channels, source.scores) == (("x", "y", "z"), True)
    for entry, number in zip(source.entries, (1, 0), strict=True):
        clip = entry.read()
        assert np.array_equal(only(clip), walk(7, 33, number))
        assert np.all(clip.tracks[0].tracked_FV == np.float16(0.5))


def test_files_of_one_frame_make_a_clip_per_folder(tmp_path: Path) -> None:
    for number, name in enumerate(["wave/w1", "jump/j1"]):
        for t, one in enumerate(walk(12, 33, number)):
            write_json(tmp_path / name / f"frame_{t}.json", {"pose_landmarks": landmarks(one)})
    source = open_sources([tmp_path])
    assert [entry.name for entry in source.entries] == ["j1", "w1"]
    assert source.class_names == ["jump", "wave"]
    assert np.array_equal(only(source.entries[0].read()), walk(12, 33, 1)), "frame_10 follows frame_9"


def test_a_frame_without_a_person_is_absent_and_an_unseen_landmark_too(tmp_path: Path) -> None:
    frames: list = [landmarks(one) for one in walk(7, 33)]
    frames[2] = []
    frames[3] = None
    frames[4][5]["visibility"] = 0
    write_json(tmp_path / "wave_1.json", frames)
    (track,) = open_sources([tmp_path]).entries[0].read().tracks
    assert track.frame_F.tolist() == [0, 1, 4, 5, 6]
    assert track.tracked_FV is not None
    assert np.argwhere(track.tracked_FV == 0).tolist() == [[2, 5]]


def test_faults_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "wave_1.json", [landmarks(one) for one in walk(7, 33)])
    write_json(tmp_path / "wave_2.json", [landmarks(one[:30]) for one in walk(7, 33)])
    write_json(tmp_path / "wave_3.json", [{"hands": [1]}])
    (tmp_path / "wave_4.json").write_text("[[")
    messages = []
    for entry in open_sources([tmp_path]).entries:
        try:
            entry.read()
        except SkeletonError as error:
            messages.append(str(error))
    assert messages == [
        "wave_2: bad-form: 30 landmarks; the first person has 33",
        "wave_3: bad-form: a frame has no landmarks; expected lists of x, y, z and visibility",
        "wave_4:1: bad-json: the JSON is damaged (Expecting value)",
    ]
    with pytest.raises(SourceError, match="--layout coco17 has 17; with as many: mediapipe33"):
        open_sources([tmp_path], Reading(layout="coco17"))


@pytest.mark.parametrize(
    ("key", "shift", "unit"),
    [
        ("pose_world_landmarks", 0.0, "m"), ("pose_landmarks", 0.0, "px"), ("keypoints3D", 0.0, "m"),
        ("landmarks", 0.0, "m"), ("landmarks", 5.0, "px"),
    ],
)  # fmt: skip
def test_world_landmarks_are_metres_and_others_shares_of_the_image(
    tmp_path: Path, key: str, shift: float, unit: str
) -> None:
    """A list without a name is in metres if it has an origin in the middle of the body."""
    x = walk(3, 33)
    x = x - x.mean(axis=(0, 1)) + np.float32(shift)
    write_json(tmp_path / "a_1.json", {"fps": 25, "frames": [{key: landmarks(one)} for one in x]})
    source = open_sources([tmp_path])
    assert (source.unit, source.fps) == (unit, 25)


def timed(step: float, frames: int = 6) -> list[dict]:
    one = [{"x": 0.1 * joint, "y": 0.2, "z": 0.3, "visibility": 1.0} for joint in range(33)]
    return [{"timestamp_ms": step * number, "landmarks": one} for number in range(frames)]


def test_the_times_of_frames_tell_the_rate_and_files_of_another_rate_are_rejected_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "a_1.json", timed(40))
    write_json(tmp_path / "a_2.json", timed(20))
    source = open_sources([tmp_path])
    assert source.fps == 25
    source.entries[0].read()
    with pytest.raises(SkeletonError, match="a_2: frame-rate: 50 frames per second; the first file has 25"):
        source.entries[1].read()
    assert open_sources([tmp_path], Reading(fps=30)).entries[1].read().frames == 6


def test_documents_in_utf_16_are_read_and_json_lines_get_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a_1.json").write_bytes(json.dumps(timed(40)).encode("utf-16"))
    assert open_sources([tmp_path]).entries[0].read().frames == 6
    (tmp_path / "a_1.json").write_text("\n".join(map(json.dumps, timed(40))))
    with pytest.raises(SourceError, match=r"JSON lines\)\? Make them one list: jq -s"):
        open_sources([tmp_path])
    (tmp_path / "a_1.json").rename(tmp_path / "a_1.jsonl")
    with pytest.raises(SourceError, match="holds JSON lines, such as a_1.jsonl. Make each file one list"):
        open_sources([tmp_path])

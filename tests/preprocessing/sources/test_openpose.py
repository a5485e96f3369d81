"""OpenPose's folders: clips, people over frames, absent joints."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.build import main as build
from preprocessing.hdf5 import clip_rows, clip_tracked, open_file
from preprocessing.skeleton import SkeletonError
from preprocessing.sources import SourceError, open_sources
from tests.preprocessing.sources.formats import only, openpose_frames, scored, walk


def save(folder: Path) -> Path:
    for number in range(4):
        openpose_frames(folder / f"clip{number}", [[one] for one in scored(walk(8, 25, number, 2))], f"clip{number}")
    (folder / "labels.csv").write_text("clip,label\n" + "".join(f"clip{n},{'ab'[n % 2]}\n" for n in range(4)))
    return folder


def test_a_folder_is_a_clip_and_its_files_are_frames(tmp_path: Path) -> None:
    source = open_sources([save(tmp_path / "pose")])
    assert [entry.name for entry in source.entries] == ["clip0", "clip1", "clip2", "clip3"]
    assert source.class_names == ["a", "b"]
    assert source.columns["label"].tolist() == [0, 1, 0, 1]
    assert (source.joint_names[8], source.channels, source.unit) == ("mid hip", ("x", "y"), "px")
    for number, entry in enumerate(source.entries):
        x = scored(walk(8, 25, number, 2))
        clip = entry.read()
        assert np.array_equal(only(clip), x[..., :2])
        assert np.array_equal(clip.tracks[0].tracked_FV, x[..., 2].astype(np.float16))


def test_joints_with_score_zero_are_absent_and_never_centred(tmp_path: Path) -> None:
    x = scored(walk(8, 25, 0, 2))
    x[2, 4] = 0
    x[:, 8] = 0  # the joint that clips are centred by
    openpose_frames(tmp_path / "pose" / "wave_1", [[one] for one in x], "v")
    assert build([str(tmp_path / "pose"), "--out", str(tmp_path / "a.h5")]) == 0
    file = open_file(tmp_path / "a.h5")
    tracked, rows = clip_tracked(file, 0), clip_rows(file, 0)
    assert tracked is not None
    assert (tracked[0] == 0).sum() == 9
    assert rows[0, 2, 4].tolist() == [0, 0]
    assert not rows[0, :, 8].any()
    assert np.abs(rows).max() < 300, "nothing lies where minus the origin would be"


def test_two_people_who_change_places_in_the_list_stay_themselves(tmp_path: Path) -> None:
    left, right = scored(walk(6, 25, 0, 2)), scored(walk(6, 25, 1, 2) + 900)
    frames = [[left[t], right[t]] if t % 2 else [right[t], left[t]] for t in range(6)]
    openpose_frames(tmp_path / "a" / "jump_1", frames, "v")
    tracks = open_sources([tmp_path / "a"]).entries[0].read().tracks
    assert np.array_equal(tracks[0].joints_FV3, right[..., :2])
    assert np.array_equal(tracks[1].joints_FV3, left[..., :2])


def test_a_person_who_leaves_is_absent_and_a_missing_file_is_a_frame_without_people(tmp_path: Path) -> None:
    x = scored(walk(6, 25, 0, 2))
    frames = [[one] if t not in (2, 3) else [] for t, one in enumerate(x)]
    openpose_frames(tmp_path / "a" / "jump_1", frames, "v", first=100)
    (tmp_path / "a" / "jump_1" / "v_000000000104_keypoints.json").unlink()
    clip = open_sources([tmp_path / "a"]).entries[0].read()
    assert clip.frames == 6
    assert clip.tracks[0].frame_F.tolist() == [0, 1, 5]


def test_one_folder_may_hold_several_clips(tmp_path: Path) -> None:
    for name in ("wave_1", "jump_1"):
        openpose_frames(tmp_path, [[one] for one in scored(walk(5, 18, len(name), 2))], name)
    source = open_sources([tmp_path])
    assert [entry.name for entry in source.entries] == ["jump_1", "wave_1"]
    assert source.class_names == ["jump", "wave"]
    assert source.joint_names[1] == "neck"


def test_clips_without_a_label_are_named_with_the_remedy(tmp_path: Path) -> None:
    openpose_frames(tmp_path / "a" / "clip", [[one] for one in scored(walk(5, 25, 0, 2))], "v")
    with pytest.raises(SourceError, match=r"clip clip has no label. Add labels.csv with the columns clip,label"):
        open_sources([tmp_path / "a"])


def test_a_clip_that_the_labels_lack_and_a_damaged_frame_are_rejected_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "pose")
    (folder / "labels.csv").write_text("clip,label\nclip0,a\nclip1,b\nclip2,a\n")
    frame = next((folder / "clip1").iterdir())
    frame.write_text('{"people": [')
    source = open_sources([folder])
    assert [(error.name, error.reason) for error in source.unusable] == [("clip3", "no-label")]
    with pytest.raises(SkeletonError, match="clip1:1: bad-json"):
        source.entries[1].read()
    assert source.entries[0].read().frames == 8


def test_clips_of_one_name_in_several_class_folders_keep_their_class(tmp_path: Path) -> None:
    for number, label in enumerate(("jump", "wave")):
        for clip in ("a", "b"):
            openpose_frames(tmp_path / label / clip, [[one] for one in scored(walk(4, 25, number, 2))], "f")
    source = open_sources([tmp_path])
    assert [entry.name for entry in source.entries] == ["jump/a", "jump/b", "wave/a", "wave/b"]
    assert (source.class_names, source.columns["label"].tolist()) == (["jump", "wave"], [0, 0, 1, 1])

"""Tables in their long and wide forms."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.skeleton import SkeletonError
from preprocessing.sources import Reading, SourceError, open_sources
from tests.preprocessing.sources.formats import only, walk


def long_table(
    path: Path, x_TVC: np.ndarray, separator: str = ",", first: int = 0, names: list[str] | None = None
) -> Path:
    axes = "xyz"[: x_TVC.shape[2]]
    lines = [separator.join(["frame", "body", "joint", *axes])]
    for t, frame in enumerate(x_TVC):
        for j, p in enumerate(frame):
            joint = names[j] if names else str(j + first)
            lines.append(separator.join([str(t), "1", joint, *map(repr, map(float, p))]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("separator", "first"), [(",", 0), (";", 1), ("\t", 0)])
def test_clips_equal_the_tables(tmp_path: Path, separator: str, first: int) -> None:
    for number, name in enumerate(["wave_0", "jump_1"]):
        long_table(tmp_path / f"{name}.csv", walk(10, 25, number), separator, first)
    source = open_sources([tmp_path])
    assert source.class_names == ["jump", "wave"]
    assert source.joint_names[0] == "spine base"
    for entry, number in zip(source.entries, (1, 0), strict=True):
        assert np.array_equal(only(entry.read()), walk(10, 25, number))


def test_joints_by_name_come_in_the_order_of_the_layout(tmp_path: Path) -> None:
    path = long_table(tmp_path / "a_1.csv", walk(6, 4), names=["head", "Left_Hand", "neck", "foot"])
    source = open_sources([path])
    assert source.joint_names == ["head", "Left Hand", "neck", "foot"]
    coco = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
            "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
            "left_ankle", "right_ankle"]  # fmt: skip
    x = walk(6, 17, 0, 2)
    source = open_sources([long_table(tmp_path / "b_1.csv", x[:, ::-1], names=coco[::-1])])
    assert source.joint_names[5] == "left shoulder"
    assert np.array_equal(only(source.entries[0].read()), x)


@pytest.mark.parametrize("header", ["{a}{j}", "{j}_{a}", "joint {j}.{a}"])
def test_a_column_per_coordinate_is_read_too(tmp_path: Path, header: str) -> None:
    x = walk(6, 33)
    columns = [header.format(a=axis, j=joint) for joint in range(33) for axis in "xyz"]
    rows = [",".join(map(repr, map(float, frame.ravel()))) for frame in x]
    (tmp_path / "wave_1.csv").write_text(",".join(columns) + "\n" + "\n".join(rows) + "\n")
    source = open_sources([tmp_path])
    assert np.array_equal(only(source.entries[0].read()), x)
    assert len(source.joint_names) == 33


def test_one_table_may_hold_many_clips_with_their_labels(tmp_path: Path) -> None:
    lines = ["clip,label,frame,joint,x,y,score"]
    for name, label in (("b", "wave"), ("a", "jump")):
        lines += [f"{name},{label},{t},{j},{t},{j + 1},0.5" for t in range(3) for j in range(17)]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    source = open_sources([tmp_path / "all.csv"])
    assert [entry.name for entry in source.entries] == ["a", "b"]
    assert source.columns["label"].tolist() == [0, 1]
    clip = source.entries[0].read()
    assert only(clip)[2, 4].tolist() == [2, 5]
    assert np.all(clip.tracks[0].tracked_FV == np.float16(0.5))


def test_missing_rows_and_cells_are_absent_joints_and_missing_frames_have_nobody(tmp_path: Path) -> None:
    path = long_table(tmp_path / "wave_1.csv", walk(6, 25))
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("3,") and not line.startswith("2,1,7,")]
    kept[1 + 4] = "0,1,4,,,"
    path.write_text("\n".join(kept))
    clip = open_sources([tmp_path]).entries[0].read()
    (track,) = clip.tracks
    assert (clip.frames, track.frame_F.tolist()) == (6, [0, 1, 2, 4, 5])
    assert track.tracked_FV is not None
    assert np.argwhere(~track.tracked_FV).tolist() == [[0, 4], [2, 7]]


def test_two_bodies_are_two_tracks(tmp_path: Path) -> None:
    lines = ["frame,body,joint,x,y,z"]
    lines += [f"{t},{body},{j},{body},{j},{t + 1}" for t in range(4) for body in (8, 5) for j in range(25)]
    (tmp_path / "hug_1.csv").write_text("\n".join(lines))
    tracks = open_sources([tmp_path]).entries[0].read().tracks
    assert [track.joints_FV3[0, 0, 0] for track in tracks] == [8, 5]


def test_faults_are_named_with_their_line(tmp_path: Path) -> None:
    long_table(tmp_path / "wave_1.csv", walk(3, 25))
    text = (tmp_path / "wave_1.csv").read_text()
    (tmp_path / "wave_2.csv").write_text(text.replace("1,1,3,", "1,1,3,x", 1))
    (tmp_path / "wave_3.csv").write_text(text + "2,1,25,1,2,3\n")
    (tmp_path / "wave_4.csv").write_text(text + "2,1\n")
    messages = []
    for entry in open_sources([tmp_path]).entries:
        try:
            entry.read()
        except SkeletonError as error:
            messages.append(str(error).partition(" is")[0][:60])
    assert messages[0].startswith("wave_2:30: bad-number: 'x")
    assert messages[1] == "wave_3:77: joint-count: joint '25'"
    assert messages[2].startswith("wave_4: bad-form: wave_4: line 77 has 2 fields")
    with pytest.raises(SourceError, match="coco17 has 17; with as many: ntu25, kinect25, openpose25"):
        open_sources([tmp_path], Reading(layout="coco17"))


def test_other_spellings_of_a_missing_value_and_a_decimal_comma_are_read(tmp_path: Path) -> None:
    x = walk(3, 25)
    path = long_table(tmp_path / "a_1.csv", x, separator=";")
    lines = path.read_text().replace(".", ",").splitlines()
    for number, word in enumerate(["NA", "null", "#N/A", "-nan", "1.#IND"], 1):
        lines[number] = f"0;1;{number - 1};{word};{word};{word}"
    path.write_text("\n".join(lines))
    (track,) = open_sources([path]).entries[0].read().tracks
    assert track.tracked_FV is not None
    assert np.flatnonzero(~track.tracked_FV[0]).tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(track.joints_FV3[1:], x[1:])


@pytest.mark.parametrize("header", ["frame,joint,x,y,z", "frame,x0,y0,x1,y1"])
def test_a_row_that_occurs_twice_is_named(tmp_path: Path, header: str) -> None:
    row = "4,0,1,2,3" if "joint" in header else "4,1,2,3,4"
    (tmp_path / "a_1.csv").write_text(f"{header}\n{row}\n{row}\n")
    with pytest.raises(SkeletonError, match="a_1:3: repeated-row: (joint 0 of )?frame 4 occurs twice"):
        open_sources([tmp_path]).entries[0].read()


def test_a_table_that_names_its_class_gives_the_label_and_one_with_two_classes_needs_clips(tmp_path: Path) -> None:
    for name, label in (("1", "wave"), ("2", "jump")):
        (tmp_path / f"{name}.csv").write_text(f"class,x0,y0,x1,y1\n{label},1,2,3,4\n{label},2,2,3,4\n")
    source = open_sources([tmp_path])
    assert (source.class_names, source.columns["label"].tolist()) == (["jump", "wave"], [1, 0])
    (tmp_path / "1.csv").write_text("class,x0,y0,x1,y1\nwave,1,2,3,4\njump,2,2,3,4\n")
    with pytest.raises(SourceError, match=r"1.csv has several values of class \(jump, wave\) and no column clip"):
        open_sources([tmp_path])


def test_an_empty_first_table_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a_0.csv").write_text("")
    long_table(tmp_path / "a_1.csv", walk(3, 25))
    assert [entry.name for entry in open_sources([tmp_path]).entries] == ["a_0", "a_1"]


def test_a_row_per_joint_needs_a_column_that_tells_its_frame(tmp_path: Path) -> None:
    (tmp_path / "a_1.csv").write_text("pose,landmark,x,y,z\nup,0,1,2,3\nup,1,1,2,4\n")
    with pytest.raises(SourceError, match="a_1.csv has no column frame; a table has frame, body, joint"):
        open_sources([tmp_path / "a_1.csv"])


@pytest.mark.parametrize(("column", "step", "fps"), [("time", 0.04, 25), ("timestamp_ms", 20, 50), ("frame", 5, 30)])
def test_a_column_of_times_tells_the_rate(tmp_path: Path, column: str, step: float, fps: float) -> None:
    rows = [f"{t * step},{joint},{t},{joint},1" for t in range(6) for joint in range(4)]
    (tmp_path / "a_1.csv").write_text("\n".join([f"{column},joint,x,y,z", *rows]))
    assert open_sources([tmp_path]).fps == fps
    assert open_sources([tmp_path], Reading(fps=15)).fps == 15


def test_frames_far_apart_are_no_one_clip(tmp_path: Path) -> None:
    rows = [f"{t},{joint},{t},{joint},1" for t in (0, 1, 2, 100_000) for joint in range(4)]
    (tmp_path / "a_1.csv").write_text("\n".join(["frame,joint,x,y,z", *rows]))
    with pytest.raises(SkeletonError, match="a_1: frame-gap: frames jump from 2 to 100000: split the recording there"):
        open_sources([tmp_path]).entries[0].read()

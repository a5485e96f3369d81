"""timeline.py: segments of a long recording, and the command that writes them."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import predict
from pipeline.pages.timeline import panel, points_down
from pipeline.timeline import NONE, Windows, cut, decode, lengths_of, seconds, segments_of, timeline
from preprocessing.hdf5 import open_file
from preprocessing.pages.player import ABSENT
from preprocessing.skeleton import RawClip, Track
from tests.conftest import Answer


def recording(data_file: Path, labels: list[int]) -> tuple[np.ndarray, list[str]]:
    """Clips of one body in a row, and the label of each frame; -1 is two seconds without anybody."""
    file = open_file(data_file)
    parts, truth = [], []
    for place, label in enumerate(labels):
        if label < 0:
            parts.append(np.zeros((60, 10, 3), np.float32))
            truth += [NONE] * 60
            continue
        clip = np.flatnonzero(file.clips["label"] == label)[20 + place]
        start, frames = int(file.body_start[file.clips["first_body"][clip]]), int(file.clips["frames"][clip])
        parts.append(np.asarray(file.joints_RV3[start : start + frames]))
        truth += [file.class_names[label]] * frames
    return np.concatenate(parts), truth


def test_actions_in_a_row_are_found(runs: Path, data_file: Path) -> None:
    """Three classes with an empty stretch between two: most frames have their label, the empty stretch has none."""
    predictor = predict.load(runs / "bn-masked", torch.device("cpu"))
    joints, truth = recording(data_file, [0, 2, -1, 1])
    frame_F = np.flatnonzero(joints.any(axis=(1, 2)))
    raw = RawClip(len(joints), (Track(0, frame_F, joints[frame_F]),))
    found = timeline(predictor, "made up", raw, predictor.stages, 30.0, Windows(0.7, 0.1))
    labels = found.labels()
    assert len(labels) == found.frames == len(joints)
    right = np.array([a == b for a, b in zip(labels, truth, strict=True)])
    there = np.array([name != NONE for name in truth])
    assert right[~there].mean() > 0.6
    assert right[there].mean() > 0.5
    assert [row["start"] for row in found.rows()][0] == 0
    assert all(0 <= segment.probability <= 1 for segment in found.segments)
    assert found.segments[-1].last == found.frames - 1


def test_the_most_probable_segments_by_hand() -> None:
    """Two windows that fit beat one that covers both; a further segment costs; still steps are none of the classes."""
    places = [(0, 2), (2, 4), (0, 4)]
    table = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.4]])
    moving = np.zeros(4, bool)
    assert [one[:3] for one in decode(places, table, moving, 0.5)] == [(0, 2, 0), (2, 4, 1)]
    assert [one[:3] for one in decode(places, np.array([[0.9, 0.1], [0.9, 0.1], [0.89, 0.1]]), moving, 0.5)] == [
        (0, 4, 0)
    ]
    still = np.array([False, False, True, True])
    assert {one[2] for one in decode(places, table, still, 0.5) if one[0] >= 2} == {-1}
    assert {one[2] for one in decode(places, np.full((3, 2), 0.05), moving, 0.5)} == {-1}


def test_windows_are_as_long_as_the_training_clips_vary() -> None:
    """Between bounds; neighbouring lengths differ by a quarter at most."""
    for frames, (low, high) in {(30, 50, 60): (0.6, 1.5), (11, 33, 153): (0.4, 3.2), (25, 50, 100): (0.5, 2.0)}.items():
        factors = lengths_of({"frames": list(frames)})
        assert (factors[0], factors[-1]) == pytest.approx((low, high))
        assert all(1 < b / a <= 1.2501 for a, b in zip(factors, factors[1:], strict=False))
    assert (lengths_of({})[0], lengths_of({})[-1]) == pytest.approx((0.6, 1.5))


def test_a_body_that_glides_does_not_act(runs: Path, data_file: Path) -> None:
    """Its speed is that of an action, its motion is not."""
    predictor = predict.load(runs / "bn-masked", torch.device("cpu"))
    joints, _ = recording(data_file, [0])
    glide = np.arange(60, dtype=np.float32)[:, None, None] * np.array([0.05, 0, 0], np.float32)
    joints = np.concatenate([joints, joints[-1] + glide])
    raw = RawClip(len(joints), (Track(0, np.arange(len(joints)), joints),))
    found = timeline(predictor, "made up", raw, predictor.stages, 30.0, Windows(0.7, 0.1))
    assert {found.labels()[frame] for frame in range(len(joints) - 50, len(joints) - 10)} == {NONE}


@pytest.mark.parametrize(("head", "down"), [(1.0, False), (-1.0, True)])
def test_a_recording_whose_y_points_down_is_drawn_with_its_head_up(head: float, down: bool) -> None:
    """Known by the names of joints; a half turn keeps left on its side."""
    joints = np.zeros((4, 3, 3), np.float32)
    joints[:, 1, 1] = head
    joints[:, 2, :2] = [0.3, -head]
    raw = RawClip(4, (Track(0, np.arange(4), joints),))
    assert points_down(raw, ["hip", "nose", "left ankle"]) is down
    assert not points_down(raw, ["a", "b", "c"])


def test_pixels_fit_the_drawing_and_absent_joints_do_not_move_it() -> None:
    """Two coordinates, up to 1,920; the drawing has metres in 16 bits."""
    joints = np.array([[[960, 140], [960, 540], [0, 0]], [[1920, 140], [1920, 540], [960, 940]]], np.float32)
    tracked = np.array([[True, True, False], [True, True, True]])
    raw = RawClip(2, (Track(0, np.array([0, 1]), joints, tracked),))
    (body,) = panel(raw, ["nose", "hip", "left ankle"])["bodies"]
    packed = np.frombuffer(base64.b64decode(body["joints"]), "<i2").reshape(2, 3, 3) / 1000
    assert (packed[0, 2] * 1000 == ABSENT).all()
    assert np.allclose(packed[1], [[10, 4.167, 0], [10, 0, 0], [0, -4.167, 0]], atol=1e-3)


def test_runs_of_equal_labels() -> None:
    """First and last frame of each; none of nothing."""
    assert segments_of(["a", "a", "b", "a"]) == [(0, 1, "a"), (2, 2, "b"), (3, 3, "a")]
    assert segments_of([]) == []


def test_a_part_of_a_recording_starts_at_zero() -> None:
    """Bodies without a frame in it are left out; joint marks go along."""
    joints = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    first = Track(0, np.arange(5), joints, np.ones((5, 2), bool))
    part = cut(RawClip(5, (first, Track(1, np.array([0]), joints[:1]))), 2, 9)
    assert part.frames == 3
    assert [track.body_id for track in part.tracks] == [0]
    assert part.tracks[0].frame_F.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(part.tracks[0].joints_FV3, joints[2:])
    assert part.tracks[0].tracked_FV is not None
    assert part.tracks[0].tracked_FV.shape == (3, 2)


@pytest.mark.parametrize(("text", "value"), [("2s", 2.0), ("500ms", 0.5), ("1.5", 1.5)])
def test_durations(text: str, value: float) -> None:
    """Seconds and milliseconds."""
    assert seconds(text, "--window") == value


@pytest.mark.parametrize(("window", "stride", "words"), [("2h", "1s", "invalid"), ("1s", "2s", "at most the window")])
def test_durations_that_mean_nothing(
    runs: Path, data_file: Path, window: str, stride: str, words: str, answer: Answer
) -> None:
    """One line."""
    done = answer(lambda: predict.main([str(runs / "none"), str(data_file), "--window", window, "--stride", stride]))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_writes_json_csv_and_a_page(
    runs: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same segments in each; the page has a mark per segment for the player."""
    joints, _ = recording(data_file, [0, 2, 1])
    file = open_file(data_file)
    path = tmp_path / "long.npz"
    np.savez(path, X=joints[:, None], ptr=np.array([0, len(joints)]), label=np.array([0]), bones=file.bones,
             joint_names=np.array(file.joint_names), name=np.array(["long"]))  # fmt: skip
    words = [str(runs / "bn-masked"), str(path), "--window", "auto", "--stride", "0.1s"]
    for out in ("a.json", "a.csv"):
        assert predict.main([*words, "--out", str(tmp_path / out), "--html", str(tmp_path / "a.html")]) == 0
    (line,) = json.loads((tmp_path / "a.json").read_text())["timelines"].values()
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["label"] for row in rows] == [one["label"] for one in line["segments"]]
    assert line["frames"] == len(joints)
    assert {"first", "last", "label", "probability"} == set(line["windows"][0])
    page = (tmp_path / "a.html").read_text()
    assert page.count('"colour":') == len(rows)
    assert rows[0]["label"] in capsys.readouterr().out
    assert predict.main([str(runs / "none"), str(path), "--html", str(tmp_path / "a.html")]) == 2

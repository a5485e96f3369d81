"""The command, from recordings to a verified file and a manifest that names every drop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing import build, verify
from preprocessing.hdf5 import SkeletonFile, open_file


def run(*arguments: object) -> int:
    return build.main([str(argument) for argument in arguments])


def story(out: Path) -> dict[str, Any]:
    return json.loads(out.with_suffix(".manifest.json").read_text())


def dense(file: SkeletonFile, name: str) -> np.ndarray:
    """(T, 2, V, 3): the two slots of a clip."""
    clip = file.clips["name"].tolist().index(name)
    frames = int(file.clips["frames"][clip])
    joints = np.zeros((frames, 2, *file.joints_RV3.shape[1:]), np.float32)
    first = file.clips["first_body"][clip]
    for body in range(first, first + file.clips["bodies"][clip]):
        start = file.body_start[body]
        joints[:, file.body_slot[body]] = file.joints_RV3[start : start + frames]
    return joints


def test_recordings_become_a_whole_file(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    assert run(recordings, "--out", out) == 0
    file = open_file(out)
    assert verify.main([str(out)]) == 0
    assert file.clips["name"].tolist() == sorted(path.stem for path in recordings.iterdir())
    assert story(out)["counts"] | {"decisions": 0} == {
        "found": 24, "clips": 24, "bodies": 36, "rows": 720, "skipped": {}, "quarantined": {}, "rejected_share": 0.0,
        "decisions": 0,
    }  # fmt: skip
    assert file.default_protocol == "xsub"
    assert file.class_names[0] == "drink water"
    assert len(file.class_names) == 60


def test_one_bad_clip_of_many_is_quarantined_with_its_line(recordings: Path, tmp_path: Path) -> None:
    bad = recordings / "S001C001P001R001A001.skeleton"
    bad.write_bytes(bad.read_bytes()[:5000])
    out = tmp_path / "a.h5"
    assert run(recordings, "--out", out) == 0
    (entry,) = story(out)["quarantine"]
    assert (entry["name"], entry["reason"]) == (bad.stem, "truncated")
    assert entry["line"] == bad.read_bytes().count(b"\n") + 1
    assert len(open_file(out).clips["name"]) == 23


def test_too_many_bad_clips_stop_the_build_unless_allowed(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(recordings.iterdir())[:2]:
        path.write_bytes(b"x")
    out = tmp_path / "a.h5"
    assert run(recordings, "--out", out) == 4
    assert "2 of 24 clips rejected" in capsys.readouterr().err
    assert not out.exists()
    assert len(story(out)["quarantine"]) == 2
    assert run(recordings, "--out", out, "--allow-rejects") == 0
    assert len(open_file(out).clips["name"]) == 22


@pytest.mark.parametrize(("empty", "code"), [(4, 0), (5, 4)])
def test_one_in_twenty_clips_that_have_a_body_may_be_rejected(
    recordings: Path, tmp_path: Path, empty: int, code: int
) -> None:
    """Of 24 clips one is damaged: with four empty ones that is exactly 5 %, with five it is more."""
    paths = sorted(recordings.iterdir())
    paths[0].write_bytes(b"x")
    for path in paths[1 : 1 + empty]:
        path.write_bytes(b"1\n0\n")
    assert run(recordings, "--out", tmp_path / "a.h5") == code


def test_clips_known_to_be_missing_or_without_a_body_are_skipped_and_counted(recordings: Path, tmp_path: Path) -> None:
    (recordings / "S001C002P005R002A008.skeleton").write_bytes(b"0\n")
    (recordings / "S001C001P001R002A001.skeleton").write_bytes(b"2\n0\n0\n")
    out = tmp_path / "a.h5"
    assert run(recordings, "--out", out) == 0
    assert story(out)["counts"]["skipped"] == {"known-missing": 1, "no-body": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none", "--out", "{tmp}/a.h5"], "does not exist"),
        (["{data}", "--out", "{tmp}/a.h5", "--recipe", "exat"], "did you mean exact? choose one of exact"),
        (["{data}", "--out", "{tmp}/a.npz"], "must end in .h5"),
        (["{data}", "--out", "{tmp}/a.h5", "--workers", "0"], "must be at least 1"),
        (["--out", "{tmp}/a.h5"], "no SOURCE"),
    ],
)
def test_a_mistake_gets_one_line(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*(text.format(tmp=tmp_path, data=recordings) for text in arguments)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


def test_verify_tells_a_damaged_file_from_one_that_is_not_there(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    assert run(recordings, "--out", out) == 0
    content = bytearray(out.read_bytes())
    content[len(content) // 2] ^= 1
    out.write_bytes(content)
    assert verify.main([str(out)]) == 6
    assert verify.main([str(tmp_path / "none.h5")]) == 2


def test_the_real_recordings_build(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    assert run(real_data / "ntu_raw", "--out", out) == 0
    counts, file = story(out)["counts"], open_file(out)
    assert (counts["found"], counts["clips"], counts["skipped"]) == (123, 121, {"known-missing": 2})
    assert "S018C001P008R002A116" in file.clips["name"]
    split = file.clips["name"].tolist().index("S005C002P004R001A023")
    assert (file.clips["frames"][split], file.clips["bodies"][split]) == (55, 1)
    start = file.body_start[file.clips["first_body"][split]]
    assert file.present_R[start : start + 55].all()


def test_the_real_damaged_recording_is_rejected_with_its_line(real_data: Path, tmp_path: Path) -> None:
    assert run(real_data / "ntu_raw_damaged", "--out", tmp_path / "a.h5") == 4
    (entry,) = story(tmp_path / "a.h5")["quarantine"]
    assert (entry["name"], entry["line"], entry["reason"]) == ("S005C002P013R002A056", 2086, "truncated")


def test_eleven_real_clips_equal_what_the_ctr_chain_made_of_them(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    assert run(real_data / "ntu_raw", "--out", out) == 0
    file = open_file(out)
    with np.load(real_data / "ctr_golden" / "NTU60_CS.npz") as golden:
        golden_NTD = golden["x_test"]
    for index, expected_TD in enumerate(golden_NTD):
        clip_TD = dense(file, f"S017C003P020R002A{50 + index:03d}").reshape(-1, 150)
        assert np.array_equal(clip_TD, expected_TD[: len(clip_TD)])
        assert not expected_TD[len(clip_TD) :].any()


@pytest.mark.parametrize(
    ("name", "clips", "bodies", "default", "test"),
    [("utd_mhad", 861, 861, "xsub", 430), ("nw_ucla", 1484, 1484, "xview", 464), ("sbu", 282, 564, "fold1", 55)],
)
def test_the_real_array_files_build(
    real_data: Path, tmp_path: Path, name: str, clips: int, bodies: int, default: str, test: int
) -> None:
    out = tmp_path / "a.h5"
    assert run(real_data / "benchmarks" / f"{name}.npz", "--out", out) == 0
    file = open_file(out)
    assert (len(file.clips["name"]), len(file.body_clip)) == (clips, bodies)
    assert (file.default_protocol, len(file.splits[default]["test"])) == (default, test)

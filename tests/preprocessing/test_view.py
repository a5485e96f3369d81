"""The pages hold what they should, and a browser draws them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing import inspect, view
from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.options import View
from preprocessing.pages import Provenance
from preprocessing.pages.strips import strip
from tests.browser import loads, rendered, screenshot, watched
from tests.conftest import write_file

Text = Callable[..., bytes]
Person = Callable[..., np.ndarray]
GHOST = "S001C001P001R001A002"


def run(command: Callable[[list[str]], int], *arguments: object) -> int:
    return command([str(argument) for argument in arguments])


@pytest.fixture
def built(recordings: Path, tmp_path: Path, ntu_text: Text, person: Person) -> Path:
    """A file of 25 clips, one of them recorded with a ghost: wider than tall."""
    ghost = person(1.0) * np.array([30, 0.1, 1], np.float32)
    frames = [[(7, person(0.01 * t)), (9, ghost)] for t in range(20)]
    (recordings / f"{GHOST}.skeleton").write_bytes(ntu_text(frames))
    out = tmp_path / "a.h5"
    assert build([str(recordings), "--out", str(out)]) == 0
    return out


def test_the_page_names_the_rule_that_dropped_the_ghost(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    assert run(view.main, built, "--out", out) == 0
    clips = view.page_clips(open_file(built), view.read_manifest(built), View(built, out))
    assert clips[0]["name"] == GHOST, "the clip with most decisions comes first"
    assert clips[0]["decisions"] == [
        "Body 9: dropped as a ghost: too wide for its height in 100% of its frames; 70% are too many (spread)."
    ]
    assert clips[1]["decisions"] == ["No rule dropped or changed a body of this clip."]
    raw, cleaned = clips[0]["panels"]
    assert [body["dropped"] for body in raw["bodies"]] == ["", "dropped (spread)"]
    assert len(cleaned["bodies"]) == 1
    assert loads(out) == []
    assert "preprocessing.view a.h5 --out view.html" in out.read_text()


def test_without_the_recordings_the_cleaned_clips_are_shown_and_it_is_said(
    built: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = recordings.rename(tmp_path / "moved")
    assert run(view.main, built, "--out", tmp_path / "view.html", "--clip", GHOST) == 0
    assert "name them with --raw" in capsys.readouterr().out
    assert run(view.main, built, "--out", tmp_path / "view.html", "--clip", GHOST, "--raw", moved) == 0
    assert "--raw" not in capsys.readouterr().out


def test_a_browser_draws_plays_and_turns_the_clip(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    assert run(view.main, built, "--out", out) == 0
    text = rendered(out, tmp_path, f"clip={GHOST}&frame=3")
    assert 'data-ready="1"' in text
    assert "frame 4 of 20" in text
    assert "body 9, 20 frames, dropped (spread)" in text
    assert text.count("too wide for its height") == 2, "one explanation on the page, and one in its data"
    still, again, later, side = (
        screenshot(out, tmp_path, f"clip={GHOST}&{how}") for how in ("frame=0", "frame=0", "frame=19", "frame=0&side")
    )
    assert still == again
    assert still != later
    assert still != side
    assert "frame 1 of 20" not in rendered(out, tmp_path, "play")


def test_inspect_counts_recordings_and_a_built_file(
    built: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "S001C001P002R001A003.skeleton").write_bytes(b"1\n")
    assert run(inspect.main, recordings, "--out", tmp_path / "raw.html") == 0
    printed = capsys.readouterr().out
    assert re.search(r"clips with 1 body +12\n", printed)
    assert re.search(r"clips with 2 bodies +13\n", printed)
    assert re.search(r"rejected: truncated +1\n", printed)
    assert run(inspect.main, built, "--out", tmp_path / "built.html") == 0
    printed = capsys.readouterr().out
    assert re.search(r"clips with 1 body +13\n", printed)
    assert re.search(r"rule spread +1\n", printed)
    raw, page = ((tmp_path / name).read_text() for name in ("raw.html", "built.html"))
    assert "S001C001P002R001A003" in raw, "a rejected clip is named"
    assert re.search(r">13</td><td class=\"bar\"[^>]*><span style=\"width: 100.00%\">", page), "of bodies per clip"
    assert "Clips per class and split" in page
    assert "Clips per class and split" not in raw
    assert loads(tmp_path / "raw.html") + loads(tmp_path / "built.html") == []


def test_a_browser_draws_inspect(built: Path, tmp_path: Path) -> None:
    assert run(inspect.main, built, "--out", tmp_path / "built.html") == 0
    dom = watched(tmp_path / "built.html", tmp_path)
    assert "data-failed" not in dom
    assert dom.count("<canvas") == 1
    assert dom.count("<option") == 3 + 3, "a clip of each class, and three speeds"
    assert dom.count("<path") >= 3 * 2, "a strip of each class"


def test_a_strip_has_poses_of_every_body_and_no_bone_of_an_absent_joint(tmp_path: Path) -> None:
    """In one scale, inside its drawing."""
    file = open_file(write_file(tmp_path / "a.h5", clips=8))
    clip = int(np.flatnonzero(file.clips["bodies"] == 2)[0])
    made = strip(file, clip)
    assert (made.title, made.clip) == ("swing 3", str(file.clips["name"][clip]))
    assert (made.frames[0], made.frames[-1], len(made.frames)) == (1, int(file.clips["frames"][clip]), 6)
    assert [body for body, _ in made.paths] == [0, *[0, 1] * 5], "the second body is absent at first"
    bones = len(file.bones)
    assert {path.count("M") for _, path in made.paths} == {bones}
    x, y = np.array([pair.split() for _, path in made.paths for pair in re.findall(r"[-\d.]+ [-\d.]+", path)], float).T
    assert (x.min() >= 0, x.max() <= made.wide, y.min() >= 0, y.max() <= 100) == (True,) * 4
    gaps = open_file(write_file(tmp_path / "b.h5", clips=8, gaps=0.3))
    assert min(path.count("M") for _, path in strip(gaps, clip).paths) < bones


@pytest.mark.parametrize("rule", [*view.EXPLAINED, "unheard-of"])
def test_every_rule_has_one_sentence(rule: str) -> None:
    made = view.describe({"rule": rule, "body": 7, "value": 0.5, "threshold": 0.25})
    assert made.startswith("Body 7: ")
    assert made.endswith(f" ({rule}).")
    assert "{" not in made


def test_the_split_table_counts_every_clip_once(built: Path) -> None:
    file = open_file(built)
    (table, *others) = inspect.split_tables(file)
    assert table.caption == f"Protocol {file.default_protocol} (default)"
    assert not any("default" in other.caption for other in others)
    assert [column.title for column in table.columns] == ["class", "train", "val", "test"]
    total, *classes = (row.cells for row in table.rows)
    parts = file.splits[file.default_protocol]
    assert total[1:] == tuple(len(parts[part]) for part in ("train", "val", "test"))
    assert [sum(column) for column in list(zip(*classes, strict=True))[1:]] == list(total[1:])
    assert sum(total[1:]) == 25


def test_a_survey_counts_frames_joints_and_rejected_clips() -> None:
    """Five frames, one without a body; one joint at zero; two clips rejected for one reason."""
    survey = inspect.Survey("a file")
    rows_FV3 = np.ones((4, 2, 3))
    rows_FV3[0, 0] = 0
    rows_FV3[1, 1] = [-1, 2, 3]
    survey.add("wave", 5, [rows_FV3], np.array([True, True, False, True, True]))
    survey.reject("b", "truncated", "b:7: truncated: short")
    survey.reject("a", "truncated", "short")
    assert survey.rejected == [("b", "truncated", "short"), ("a", "truncated", "short")]
    assert (survey.absent, survey.zero_joints, survey.joints) == (1, 1, 8)
    assert (survey.low_C.tolist(), survey.high_C.tolist()) == ([-1, 0, 0], [1, 2, 3])
    values = dict(inspect.figures(survey))
    assert values["frames without a body"] == "1 of 5"
    assert values["rejected: truncated"] == "2"
    shown = {box.title: (box.figure, box.text) for box in inspect.lead(survey)}
    assert shown["Frames without a body"] == ("20.00 %", "1 of 5")
    assert shown["Joints at exactly zero"] == ("12.50 %", "1 of 8")
    assert shown["Rejected clips"][0] == "2"


def test_the_histogram_has_intervals_of_one_width() -> None:
    assert inspect.histogram([3, 4, 4, 6]) == [("3", 1), ("4", 2), ("5", 0), ("6", 1)]
    wide = inspect.histogram([0, 1, 47])
    assert wide[0] == ("0 to 1", 2)
    assert wide[-1] == ("46 to 47", 1)
    assert len(wide) == inspect.BINS
    assert inspect.histogram([]) == []


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        (view.main, ["{built}", "--out", "{tmp}/a.txt"], 2, "must end in .html"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--clip", "walk"], 2, "'walk' is not in"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--most", "0"], 2, "1 to 200 clips"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--raw", "{tmp}/none"], 2, "does not exist"),
        (view.main, ["{tmp}/none.h5", "--out", "{tmp}/a.html"], 2, "does not exist"),
        (inspect.main, [], 2, "Nothing to inspect"),
        (inspect.main, ["{built}", "{built}"], 2, "must be named alone"),
        (inspect.main, ["{tmp}/none"], 2, "does not exist"),
        (inspect.main, ["{tmp}/bad.h5"], 6, "build it again"),
    ],
)
def test_a_mistake_gets_one_line(
    built: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[list[str]], int],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    (tmp_path / "bad.h5").write_bytes(built.read_bytes()[:5000])
    capsys.readouterr()
    assert run(command, *(text.format(tmp=tmp_path, built=built) for text in arguments)) == code
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


def test_names_with_markup_stay_text(built: Path, tmp_path: Path) -> None:
    """Of clips, classes and the data set; in HTML, in the player's data and in what its script makes of it."""
    name = """</script><script>alert('"1"')</script>"""
    file = replace(open_file(built), class_names=[name] * 60, dataset=name, path=Path("a<b>.h5"))
    clips = view.page_clips(file, {"inputs": [], "decisions": []}, View(built, tmp_path / "a.html"))
    clips[0]["name"] = clips[0]["note"] = name
    out = tmp_path / "a.html"
    out.write_text(view.page(file, clips, Provenance("<img src=x>", "1", "", "")))
    assert "<script>alert" not in out.read_text()
    dom = watched(out, tmp_path)
    assert "data-failed" not in dom
    assert "data-ready" in dom
    assert "<script>alert" not in dom
    assert "<img" not in dom
    assert dom.count("&lt;script&gt;alert") >= 4, "title, heading, menu and note"

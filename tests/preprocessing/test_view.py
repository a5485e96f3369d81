"""The pages hold what they should, and a browser draws them."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing import inspect, view
from preprocessing.build import main as build
from preprocessing.hdf5 import open_file

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


@pytest.fixture(scope="session")
def browser() -> str:
    """Chromium, installed if it is missing and may be; else the test skips."""
    path = shutil.which("chromium")
    if not path and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], capture_output=True)
        path = shutil.which("chromium")
    if not path:
        pytest.skip("no chromium: apt-get install chromium")
    return path


def browse(browser: str, url: str, work: Path, *how: str) -> str:
    """Open a page without a network and return what the browser says."""
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000", "--window-size=1200,900",
        f"--user-data-dir={work / 'profile'}", *how, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def picture(browser: str, url: str, work: Path, name: str) -> bytes:
    """The bytes of a page's screenshot."""
    browse(browser, url, work, f"--screenshot={work / name}")
    return (work / name).read_bytes()


def test_the_page_names_the_rule_that_dropped_the_ghost(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    assert run(view.main, built, "--out", out) == 0
    clips = view.page_clips(open_file(built), view.read_manifest(built), view.Options(built, out))
    assert clips[0]["name"] == GHOST, "the clip with the most decisions comes first"
    raw, cleaned = clips[0]["panels"]
    assert [body["dropped"] for body in raw["bodies"]] == ["", "spread: 1 against 0.6975"]
    assert len(cleaned["bodies"]) == 1
    assert "http" not in re.sub(r'<script id="data".*?</script>', "", out.read_text(), flags=re.S)


def test_without_the_recordings_the_cleaned_clips_are_shown_and_it_is_said(
    built: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = recordings.rename(tmp_path / "moved")
    assert run(view.main, built, "--out", tmp_path / "view.html", "--clip", GHOST) == 0
    assert "name them with --raw" in capsys.readouterr().out
    assert run(view.main, built, "--out", tmp_path / "view.html", "--clip", GHOST, "--raw", moved) == 0
    assert "--raw" not in capsys.readouterr().out


def test_a_browser_draws_plays_and_turns_the_clip(built: Path, tmp_path: Path, browser: str) -> None:
    out = tmp_path / "view.html"
    assert run(view.main, built, "--out", out) == 0
    text = browse(browser, f"{out.as_uri()}#clip={GHOST}&frame=3", tmp_path, "--dump-dom")
    assert 'data-ready="1"' in text
    assert "frame 4 of 20" in text
    assert "dropped by spread: 1 against 0.6975" in text
    still, again, later, side = (
        picture(browser, f"{out.as_uri()}#clip={GHOST}&{how}", tmp_path, f"{number}.png")
        for number, how in enumerate(["frame=0", "frame=0", "frame=19", "frame=0&side"])
    )
    assert still == again
    assert still != later
    assert still != side
    assert "frame 1 of 20" not in browse(browser, f"{out.as_uri()}#play", tmp_path, "--dump-dom")


def test_inspect_counts_recordings_and_a_built_file(
    built: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "S001C001P002R001A003.skeleton").write_bytes(b"1\n")
    assert run(inspect.main, recordings, "--out", tmp_path / "raw.html") == 0
    told = capsys.readouterr().out
    assert re.search(r"clips with 1 body +12\n", told)
    assert re.search(r"clips with 2 bodies +13\n", told)
    assert re.search(r"left out: truncated +1\n", told)
    assert run(inspect.main, built, "--out", tmp_path / "built.html") == 0
    told = capsys.readouterr().out
    assert re.search(r"clips with 1 body +13\n", told)
    assert re.search(r"rule spread +1\n", told)
    assert "<svg" in (tmp_path / "raw.html").read_text()


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        (view.main, ["{built}", "--out", "{tmp}/a.txt"], 2, "must end in .html"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--clip", "walk"], 2, "'walk' is not in"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--most", "0"], 2, "1 to 200 clips"),
        (view.main, ["{built}", "--out", "{tmp}/a.html", "--raw", "{tmp}/none"], 2, "does not exist"),
        (view.main, ["{tmp}/none.h5", "--out", "{tmp}/a.html"], 2, "does not exist"),
        (inspect.main, [], 2, "nothing to inspect"),
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


def test_a_name_cannot_end_the_pages_script(built: Path) -> None:
    text = view.render(open_file(built), [{"name": "</script><script>alert(1)</script>"}])
    assert "alert(1)</script>" not in text
    assert text.count("</script>") == 2

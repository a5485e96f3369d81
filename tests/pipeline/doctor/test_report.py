"""page: the diagnosis in a real browser, verdict first, what did not fire folded away."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import page
from pipeline.normdoctor.checks import CHECKS
from tests.browser import rendered

WATCH = "<script>window.onerror = (error) => { document.documentElement.dataset.failed = error; };</script>"


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's page on the loop run."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-loop"), "--split", "test", "--html", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return out


def dom(made: Path, folder: Path, old: str = "", new: str = "") -> str:
    """The page after its scripts ran, with a note of any error."""
    watched = folder / "watched.html"
    watched.write_text(made.read_text().replace(old, new).replace("<head>", f"<head>{WATCH}", 1))
    return rendered(watched, folder / "profile")


def test_a_browser_draws_it_without_an_error(made: Path, tmp_path: Path) -> None:
    """Waterfall, before and after, drift."""
    drawn = dom(made, tmp_path)
    assert "data-failed" not in drawn
    assert len(re.findall(r'class="plotly-graph-div[^"]*"', drawn)) == 3
    assert drawn.count('class="main-svg"') >= 3
    assert "one set per" in drawn
    assert "norms.0.0" in drawn


def test_the_browser_check_sees_a_broken_page(made: Path, tmp_path: Path) -> None:
    """Negative control."""
    assert "data-failed" in dom(made, tmp_path, "Plotly.newPlot(", "Plotly.noPlot(")


def test_the_verdict_stands_first_with_the_figures_of_the_json(runs: Path, made: Path) -> None:
    """Headline, verdict, the cause's box; checks that saw nothing are folded."""
    doctor = json.loads((runs / "bn-loop" / "doctor.json").read_text())
    text = made.read_text()
    top = text[text.index("<h1>") : text.index("Layer by layer")]
    assert f"{100 * doctor['gap']['normalization']:.1f} points" in top
    cause = doctor["causes"][0]
    assert f"{100 * cause['before']:.1f} → {100 * cause['after']:.1f} %" in top
    assert top.index("<h1>") < top.index("called 2 times") < top.index("cause: reuse")
    folded = text[text.index("<summary>Checks that saw nothing") :]
    silent = [name for name in CHECKS if not doctor["checks"][name]]
    assert silent
    assert all(f"<b>{name}</b>" in folded for name in silent)


def test_nothing_is_fetched_and_text_stays_text(made: Path) -> None:
    """No address anywhere; a name with markup is escaped."""
    text = re.sub(r"<script.*?</script>", "", made.read_text(), flags=re.S)
    assert not re.search(r"(src|href)\s*=|@import|url\(", text)


def test_a_run_without_norms_has_a_page_too(runs: Path, tmp_path: Path) -> None:
    """No layers, no causes; its name escaped."""
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "none"), "--split", "test"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    doctor = json.loads((runs / "none" / "doctor.json").read_text())
    text = page.page("<i>none", doctor)
    assert "&lt;i&gt;none" in text
    assert "no batch norm" in text


def test_a_page_does_not_land_on_a_recording(runs: Path, tmp_path: Path) -> None:
    """Where the option's own value was forgotten."""
    recording = tmp_path / "S001C001P001R001A001.skeleton"
    recording.write_text("2\n0\n0\n")
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-loop"), "--html", str(recording)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert f"--html {recording} must end in .html" in result.stderr
    assert recording.read_text() == "2\n0\n0\n"

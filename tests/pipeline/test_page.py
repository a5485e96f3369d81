"""page: the command, and its page in a browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.pages.classes import PLAYED, confused_pairs
from pipeline.pages.finished import read_run
from tests.browser import loads, watched
from tests.pipeline.conftest import made_old

STUDY = {
    "trials": [
        {"trial": 0, "norm.kind": "bn", "optim.lr": 0.001, "val": 0.9, "epoch": 5, "error": ""},
        {"trial": 1, "norm.kind": "<b>", "optim.lr": 0.1, "val": None, "epoch": None, "error": "x"},
    ]
}
# The least number of frames in which any player was seen.
FRAMES = """<script>
const seen = [];
setInterval(() => {
  document.querySelectorAll("figure.player").forEach((one, n) => (seen[n] ??= new Set()).add(one.dataset.frame));
  document.documentElement.dataset.seen = Math.min(...seen.map((frames) => frames.size));
}, 50);
</script>"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    words = [sys.executable, "-m", "pipeline.page", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page over two runs, a diagnosis of one, and a study."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("none", "bn-loop"):
        shutil.copytree(runs / name, folder / name)
    subprocess.run([sys.executable, "-m", "pipeline.doctor", str(folder / "bn-loop")], check=True, capture_output=True)
    (folder / "study").mkdir()
    (folder / "study" / "results.json").write_text(json.dumps(STUDY))
    result = command(folder / "none", folder / "bn-loop", "--study", folder / "study", "--out", folder / "report.html")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(folder / "report.html")
    return folder


def test_a_browser_draws_it_without_an_error(made: Path, tmp_path: Path) -> None:
    """Plots are drawn, every clip moves, no script fails, the study's text stays text."""
    dom = watched(made / "report.html", tmp_path, more=FRAMES)
    assert "data-failed" not in dom
    assert dom.count('<figure class="plot"') == 5
    assert int(re.search(r'data-seen="(\d+)"', dom).group(1)) > 3
    assert "&lt;b&gt;" in dom


def test_the_browser_check_sees_a_broken_page(made: Path, tmp_path: Path) -> None:
    """Negative control: without its data a player fails."""
    assert "data-failed" in watched(made / "report.html", tmp_path, '<script type="application/json">', "<i>")


def test_nothing_is_fetched_and_the_page_is_small(made: Path) -> None:
    """No element loads anything from elsewhere; figures are SVG."""
    assert loads(made / "report.html") == []
    assert (made / "report.html").stat().st_size < 300_000


def test_what_happened_why_and_what_fixes_it_stand_first(made: Path) -> None:
    """The figures are those of summary.json and doctor.json."""
    text = (made / "report.html").read_text()
    summary = json.loads((made / "bn-loop" / "summary.json").read_text())
    doctor = json.loads((made / "bn-loop" / "doctor.json").read_text())
    top = text[text.index("<h1>") : text.index("The doctor")]
    assert f"{100 * summary['train']['top1']:.0f} % → {100 * summary['test']['top1']:.0f} %" in top
    assert f"{100 * summary['gap']['normalization']:.1f} points" in top
    cause = doctor["causes"][0]
    assert f"Cause: {cause['check']}, {100 * cause['recovered']:.0f} % of it." in top
    assert f"{100 * cause['before']:.0f} % → {100 * cause['after']:.0f} %" in top
    assert text.index("What happened") < text.index("<figure")
    assert f"<p><b>“bn-loop”</b>: {doctor['verdict'][:20]}" in text


def test_the_footer_has_the_command_without_folders(made: Path) -> None:
    text = (made / "report.html").read_text()
    assert "<code>python -m pipeline.page none bn-loop --study study --out report.html</code>" in text
    assert str(made) not in text


def test_without_a_doctor_or_a_study_it_says_what_to_run(runs: Path, tmp_path: Path) -> None:
    """A page over one run alone."""
    out = tmp_path / "one.html"
    bare = shutil.copytree(runs / "none", tmp_path / "none", ignore=shutil.ignore_patterns("doctor.json"))
    assert command(bare, "--out", out).returncode == 0
    assert "Run python -m pipeline.doctor" in out.read_text()
    assert "No run has a doctor.json yet." in out.read_text()


def test_names_with_markup_stay_text(runs: Path, tmp_path: Path) -> None:
    """A run's name in headings, tables and figures."""
    name = "<img src=x onerror=alert(1)>'\"&amp;"
    folder = shutil.copytree(runs / "bn-loop", tmp_path / name)
    out = tmp_path / "page.html"
    result = command(folder, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "<img" not in out.read_text()
    dom = watched(out, tmp_path)
    assert "data-failed" not in dom
    assert "<img" not in dom
    drawn = re.findall(r'<div class="name">([^<]*)', dom)
    assert "&lt;img src=x onerror=alert(1)&gt;'\"&amp;amp;" in [text.strip() for text in drawn], "a label of a figure"


def test_the_page_shows_the_classes_that_the_summary_counts(made: Path) -> None:
    """Every class with its accuracy on the test clips, and a player for each of the most frequent confusions."""
    text = re.sub(r">\s+<", "><", (made / "report.html").read_text())
    best = max(("none", "bn-loop"), key=lambda name: read_run(made / name).eval_top1)
    counts = read_run(made / best).summary["confusion"]
    section = text[text.index("<h2>The classes: ") :]
    assert section.startswith(f"<h2>The classes: “{best}” on test clips")
    for k, row in enumerate(counts):
        cells = f'<td class="right">{100 * row[k] / sum(row):.1f}</td><td class="right">{sum(row)}</td>'
        assert f'<th scope="row" class="left">swing {k}</th>{cells}' in section
    pairs = confused_pairs(np.array(counts), [f"swing {k}" for k in range(4)])[:PLAYED]
    assert pairs
    for pair in pairs:
        assert f"{pair.label}, and {pair.predicted}, which it is mistaken for in {pair.times} of {pair.clips}" in text
    assert text.count('<figure class="player"') == len(pairs) + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}", "--out", "{tmp}/a.html"], "is not a run folder"),
        (["--out", "{tmp}/a.html"], "at least one run folder"),
        (["{runs}/none", "--out", "{tmp}/a.skeleton"], "a.skeleton must end in .html"),
        (["{runs}/none", "--study", "{tmp}", "--out", "{tmp}/a.html"], "no results.json"),
    ],
)
def test_a_mistake_gets_one_line(runs: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    """Exit 2 and the remedy."""
    result = command(*(text.format(tmp=tmp_path, runs=runs) for text in arguments))
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_a_run_that_a_page_cannot_show_is_named(runs: Path, tmp_path: Path) -> None:
    """Trained on other data than the first; evaluated on no clips; its ledger lost."""
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
        "other": ("config.json", lambda config: config.update(data_sha256="0"), "was trained on another file"),
        "unseen": ("summary.json", lambda summary: summary.update(test={}), "was evaluated on no clips"),
        "lost": ("summary.json", lambda summary: summary.pop("train"), "has lost its ledger.jsonl"),
    }
    for name, (file, change, words) in changes.items():
        made_old(shutil.copytree(runs / "none", tmp_path / name))
        (tmp_path / name / "doctor.json").unlink(missing_ok=True)  # of another test; it would be named first
        values = json.loads((tmp_path / name / file).read_text())
        change(values)
        (tmp_path / name / file).write_text(json.dumps(values))
        result = command(runs / "bn-masked", tmp_path / name, "--out", tmp_path / "page.html")
        assert result.returncode == 2
        assert f"{tmp_path / name} {words}" in result.stderr
        assert result.stderr.count("\n") == 1


def test_data_that_is_gone_gets_one_line(runs: Path, tmp_path: Path) -> None:
    """Exit 2 and the file's name."""
    run = shutil.copytree(runs / "none", tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone.h5")}))
    result = command(run, "--out", tmp_path / "a.html")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {run} was trained on {tmp_path / 'gone.h5'}, which is missing; put it")
    assert result.stderr.strip().count("\n") == 0


def test_a_full_disk_is_reported_and_leaves_no_page(runs: Path, full_disk: Path) -> None:
    result = command(runs / "none", "--out", full_disk / "report.html")
    assert (result.returncode, len(result.stderr.splitlines())) == (7, 1), result.stderr
    assert "no space left for" in result.stderr
    assert not (full_disk / "report.html").exists()

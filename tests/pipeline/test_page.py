"""page.py: one self-contained page that a browser draws, with the figures that the runs have."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import page
from pipeline.run_folder import Run
from preprocessing.hdf5 import open_file
from tests.browser import rendered

STUDY = {
    "trials": [
        {"trial": 0, "norm.kind": "bn", "optim.lr": 0.001, "val": 0.9, "epoch": 5, "error": ""},
        {"trial": 1, "norm.kind": "<b>", "optim.lr": 0.1, "val": None, "epoch": None, "error": "x"},
    ]
}
WATCH = """<script>
window.onerror = (error) => { document.documentElement.dataset.failed = error; };
const seen = [];
setInterval(() => {
  document.querySelectorAll("figure.clip canvas").forEach((one, n) => (seen[n] ??= new Set()).add(one.dataset.frame));
  document.documentElement.dataset.seen = Math.min(...seen.map((frames) => frames.size));
}, 50);
</script>"""


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    words = [sys.executable, "-m", "pipeline.page", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page over both runs, the doctor's word on one, and a study."""
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


def watched(made: Path, folder: Path, old: str = "", new: str = "") -> str:
    """The page's DOM in a browser, with a script that notes errors and counts the frames each clip was drawn in."""
    page = folder / "watched.html"
    text = (made / "report.html").read_text().replace(old, new)
    page.write_text(text.replace("<head>", f"<head>{WATCH}", 1))
    return rendered(page, folder / "profile")


def test_a_browser_draws_it_without_an_error(made: Path, tmp_path: Path) -> None:
    """Plots are drawn, every clip moves, no script failed, the study's text stays text."""
    dom = watched(made, tmp_path)
    assert "data-failed" not in dom
    assert dom.count('class="main-svg"') >= 4
    assert int(re.search(r'data-seen="(\d+)"', dom).group(1)) > 3
    assert "&lt;b&gt;" in dom


def test_the_browser_check_sees_a_broken_page(made: Path, tmp_path: Path) -> None:
    """Negative control: without its data the skeleton's script fails, and that is noticed."""
    assert "data-failed" in watched(made, tmp_path, "<script type='application/json'", "<i ")


def test_nothing_is_fetched(made: Path) -> None:
    """No element that loads anything from elsewhere."""
    text = re.sub(r"<script>.*?</script>", "", (made / "report.html").read_text(), flags=re.S)
    assert not re.search(r"(src|href)\s*=|@import|url\(", text)


def test_what_happened_why_and_what_fixes_it_stand_first(made: Path) -> None:
    """The figures are those of summary.json and doctor.json."""
    text = (made / "report.html").read_text()
    summary = json.loads((made / "bn-loop" / "summary.json").read_text())
    doctor = json.loads((made / "bn-loop" / "doctor.json").read_text())
    top = text[text.index("<h1>") : text.index("The doctor")]
    assert f"{100 * summary['train']['top1']:.0f} % → {100 * summary['test']['top1']:.0f} %" in top
    assert f"{100 * summary['gap']['normalization']:.1f} points" in top
    assert doctor["causes"][0]["check"] in top
    before, after = (100 * doctor["causes"][0][key] for key in ("before", "after"))
    assert f"{before:.0f} % → {after:.0f} %" in top


def test_a_comparison_of_other_clips_says_so(runs: Path) -> None:
    """The run without norm was judged on test, the one with it on val."""
    plain, sick = (page.read_run(runs / name) for name in ("none", "bn-loop"))
    assert "other clips" not in page.answer([plain, sick])
    sick.summary["eval"], sick.summary["val"] = "val", {"top1": 0.5}
    assert "on <b>test</b>, other clips" in page.answer([plain, sick])


def test_without_a_doctor_or_a_study_it_says_what_to_run(runs: Path, tmp_path: Path) -> None:
    """A page over one run alone."""
    out = tmp_path / "one.html"
    bare = shutil.copytree(runs / "none", tmp_path / "none", ignore=shutil.ignore_patterns("doctor.json"))
    assert command(bare, "--out", out).returncode == 0
    assert "Run python -m pipeline.doctor" in out.read_text()


def test_the_classes_of_the_best_run_by_hand(runs: Path) -> None:
    """Accuracies and pairs are those of the matrix; the lowest class stands first; a run without one has no section."""
    run = page.read_run(runs / "none")
    names = ["wave", "<jump>", "sit"]
    run.summary["confusion"] = [[3, 1, 0], [0, 0, 2], [0, 0, 5]]
    assert page.confused_pairs(run, names) == [("<jump>", "sit", 2, 2), ("wave", "<jump>", 1, 4)]
    table = page.class_table(run, names)
    places = [table.index(text) for text in ("&lt;jump&gt;<td>0.0<td>2", "wave<td>75.0<td>4", "sit<td>100.0<td>5")]
    assert places == sorted(places)
    figure = page.confusion_figure(run, names)
    assert figure.data[0].z[0].tolist() == [75, 25, 0]
    run.summary.pop("confusion")
    assert page.classes_section([run], Run(runs / "none").data) == ""


def test_the_confusion_figure_leaves_out_classes_that_do_not_occur(runs: Path) -> None:
    """Neither a clip's nor an answer's; one that only an answer names stays, its row empty."""
    run = page.read_run(runs / "none")
    run.summary["confusion"] = [[3, 0, 0, 1], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    shown = page.confusion_figure(run, ["walk", "sit", "run", "fall"]).data[0]
    assert list(shown.x) == list(shown.y) == ["walk", "run", "fall"]
    assert shown.z.tolist() == [[75, 0, 25], [0, 100, 0], [0, 0, 0]]


def test_the_page_shows_the_classes_that_the_summary_counts(made: Path) -> None:
    """Every class with its accuracy on the test clips."""
    text = (made / "report.html").read_text()
    best = max(("none", "bn-loop"), key=lambda name: page.read_run(made / name).eval_top1)
    counts = page.read_run(made / best).summary["confusion"]
    section = text[text.index("The classes: ") :]
    assert section.startswith(f"The classes: {best} on test clips")
    for k, row in enumerate(counts):
        assert f"swing {k}<td>{100 * row[k] / sum(row):.1f}<td>{sum(row)}" in section


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
    """Trained on other data than the first; judged on no clips; its ledger lost."""
    changes: dict[str, tuple[str, Callable[[dict[str, Any]], None], str]] = {
        "other": ("config.json", lambda config: config.update(data_sha256="0"), "was trained on another file"),
        "unjudged": ("summary.json", lambda summary: summary.update(test={}), "was judged on no clips"),
        "lost": ("summary.json", lambda summary: summary.pop("train"), "has lost its ledger.jsonl"),
    }
    for name, (file, change, words) in changes.items():
        shutil.copytree(runs / "none", tmp_path / name)
        values = json.loads((tmp_path / name / file).read_text())
        change(values)
        (tmp_path / name / file).write_text(json.dumps(values))
        result = command(runs / "bn-masked", tmp_path / name, "--out", tmp_path / "page.html")
        assert result.returncode == 2
        assert f"{tmp_path / name} {words}" in result.stderr
        assert result.stderr.count("\n") == 1


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    """By their folders; else they would stand on each other in the figures."""
    folders = [tmp_path / seed / "run" for seed in ("s0", "s1")]
    for folder in folders:
        shutil.copytree(runs / "none", folder)
    read = [page.read_run(folder) for folder in folders]
    assert [run.name for run in page.told_apart(read, folders)] == ["s0/run", "s1/run"]
    assert page.told_apart(read[:1], folders[:1]) == read[:1]


def test_a_study_of_arms_is_no_search(tmp_path: Path) -> None:
    """Its rows are arms and seeds, and the test split judges them."""
    rows = [{"arm": arm, "seed": seed, "test": 0.5} for arm in ("none", "bn") for seed in (0, 1)]
    (tmp_path / "results.json").write_text(json.dumps({"arms": [{"arm": "none"}, {"arm": "bn"}], "trials": rows}))
    table = page.study_table(tmp_path)
    assert "<h2>The study: 2 arms in 4 rows" in table
    assert "search" not in table
    assert table.count("<td>50.0") == 4


def test_a_study_without_trials_is_said_to_have_none(tmp_path: Path) -> None:
    """Stopped before its first ended."""
    (tmp_path / "results.json").write_text('{"trials": []}')
    assert "no trials yet" in page.study_table(tmp_path)


def test_data_that_is_gone_gets_one_line(runs: Path, tmp_path: Path) -> None:
    """Exit 2 and the file's name."""
    run = shutil.copytree(runs / "none", tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(tmp_path / "gone.h5")}))
    result = command(run, "--out", tmp_path / "a.html")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {run} was trained on {tmp_path / 'gone.h5'}, which is missing; put it")
    assert result.stderr.strip().count("\n") == 0


def test_the_clip_it_plays_is_one_with_everybody_in_it(data_file: Path) -> None:
    """Two bodies, if any clip has two."""
    file = open_file(data_file)
    clip = played(page.moving(file, page.best_tracked(file), ""))
    assert len(clip["bodies"]) == 2
    assert {len(body["joints"]) for body in clip["bodies"]} == {clip["frames"]}


def played(figure: str) -> dict[str, Any]:
    """The clip of a figure."""
    clip: dict[str, Any] = json.loads(re.search(r"json'>(.*?)</script>", figure).group(1))
    return clip


def test_the_pairs_that_are_taken_for_each_other_move_side_by_side(made: Path, data_file: Path) -> None:
    """A clip of each class of the three most frequent pairs, each the middle one of its class in length."""
    text = (made / "report.html").read_text()
    file = open_file(data_file)
    best = max(("none", "bn-loop"), key=lambda name: page.read_run(made / name).eval_top1)
    pairs = page.confused_pairs(page.read_run(made / best), list(file.class_names))[: page.PLAYED]
    assert pairs
    for true, said, _, _ in pairs:
        assert f"<figcaption>{true}</figcaption>" in text
        assert f"<figcaption>{said}, what {true} is taken for</figcaption>" in text
    label = list(file.class_names).index(pairs[0][0])
    lengths = sorted(file.clips["frames"][file.clips["label"] == label])
    assert file.clips["frames"][page.typical(file, label)] == lengths[len(lengths) // 2]
    assert text.count("<figure class=clip>") == 2 * len(pairs) + 1


def test_a_full_disk_is_told_and_leaves_no_page(runs: Path, full_disk: Path) -> None:
    result = command(runs / "none", "--out", full_disk / "report.html")
    assert (result.returncode, len(result.stderr.splitlines())) == (7, 1), result.stderr
    assert "No space left on device" in result.stderr
    assert not (full_disk / "report.html").exists()

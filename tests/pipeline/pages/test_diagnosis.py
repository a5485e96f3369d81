"""The doctor's page: its values by hand, and the page of a run in a browser."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.normdoctor.checks import CHECKS
from pipeline.normdoctor.moments import RATIO_LIMIT, SHIFT_LIMIT
from pipeline.pages import diagnosis
from preprocessing.pages import Provenance
from tests.browser import loads, watched


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's page on the loop run."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-loop"), "--split", "test", "--html", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return out


def test_a_browser_draws_it_without_an_error(made: Path, tmp_path: Path) -> None:
    """Waterfall, before and after, shift and ratio."""
    drawn = watched(made, tmp_path)
    assert "data-failed" not in drawn
    assert drawn.count('<figure class="plot"') == 4
    assert ">one set per call<" in drawn
    assert "norms.0.0 · 1" in drawn
    assert loads(made) == []


def test_the_verdict_stands_first_with_the_figures_of_the_json(runs: Path, made: Path) -> None:
    """Headline, verdict, the cause's box; checks that found nothing are folded."""
    doctor = json.loads((runs / "bn-loop" / "doctor.json").read_text())
    text = made.read_text()
    top = text[text.index("<h1>") : text.index("Layer by layer")]
    assert f"{100 * doctor['gap']['normalization']:.1f} points" in top
    cause = doctor["causes"][0]
    assert f"{100 * cause['before']:.1f} % → {100 * cause['after']:.1f} %" in top
    assert top.index("<h1>") < top.index("called 2 times") < top.index("cause: reuse")
    folded = text[text.index("<summary>Checks that found nothing") :]
    silent = [name for name in CHECKS if not doctor["checks"][name]]
    assert silent
    assert all(f"<dt>{name}</dt>" in folded for name in silent)


def test_a_run_without_norms_has_a_page_too(runs: Path) -> None:
    """No layers, no causes; its name escaped."""
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "none"), "--split", "test"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    doctor = json.loads((runs / "none" / "doctor.json").read_text())
    text = diagnosis.page("<i>none", doctor, Provenance("", "", "", ""))
    assert "&lt;i&gt;none: no batch norm" in text
    assert "Layer by layer" not in text


MOVED = {"remedy": "do it", "before": 0.4, "after": 0.7, "interval": [0.2, 0.4]}
PLAIN: dict[str, Any] = {
    "causes": [], "suspicions": [], "rest": [], "judged": "val", "threshold": 0.05, "layers": [{}],
    "gap": {"normalization": 0.3}, "intervals": {"normalization": [0.25, 0.35]}, "samples": {"train": 9, "eval": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"causes": [{"check": "stale", "recovered": 0.9}]}, "stale, 90 % of a normalization gap of 30.0 points"),
        ({"causes": [{"check": "mode", "recovered": 1.0}]}, "mode"),
        ({}, "30.0 points of normalization gap, unexplained"),
        ({"threshold": 0.3}, "no normalization gap"),
        ({"threshold": 0.4, "layers": []}, "no batch norm"),
    ],
)
def test_headlines(changes: dict[str, Any], title: str) -> None:
    assert diagnosis.headline(PLAIN | changes) == title


def test_the_setting_says_what_was_measured() -> None:
    assert diagnosis.setting(PLAIN, diagnosis.words(PLAIN)) == (
        "9 training and 4 val clips; normalization gap 30.0 points (95 % interval 25.0 to 35.0; it counts above 5.0)"
    )
    assert diagnosis.setting(PLAIN | {"samples": {"train": 9, "eval": 0}}, diagnosis.words(PLAIN)).startswith(
        "9 training and no evaluation"
    )


def test_boxes_of_findings() -> None:
    entries = {kind: [MOVED | {"check": "stale"}] for kind in ("causes", "suspicions", "rest")}
    cause, suspicion, rest = diagnosis.boxes(PLAIN | entries)
    assert [box.title for box in (cause, suspicion, rest)] == [
        "cause: stale", "suspicion: stale", "no normalization gap: stale",
    ]  # fmt: skip
    assert [box.tone for box in (cause, suspicion, rest)] == ["bad", "plain", "plain"]
    assert cause.figure == "40.0 % → 70.0 %"
    assert cause.text == ("val clips, nothing retrained (95 % interval of the gain +20.0 to +40.0). Remedy: do it.")
    (still,) = diagnosis.boxes(PLAIN | {"causes": [MOVED | {"check": "stale", "after": 0.4}]})
    assert (still.figure, still.text) == ("", "Remedy: do it.")


def test_boxes_of_a_repair_and_of_a_trained_copy() -> None:
    fix = {
        "before": {"accuracies": {"A": 0.1, "C": 0.2}}, "after": {"accuracies": {"A": 0.3, "C": 0.4}},
        "eval": "test", "remedy": "joint", "out": "/x/run-fixed",
    }  # fmt: skip
    (box,) = diagnosis.boxes(PLAIN | {"fix": fix})
    assert (box.figure, box.text) == (
        "20.0 % → 40.0 %",
        "test clips, nothing retrained. Statistics: one set per layer. In run-fixed.",
    )
    only_a = {key: {"accuracies": {"A": fix[key]["accuracies"]["A"]}} for key in ("before", "after")}
    (box,) = diagnosis.boxes(PLAIN | {"fix": fix | only_a})
    assert (box.figure, box.text) == (
        "10.0 % → 30.0 %",
        "training clips, nothing retrained. Statistics: one set per layer. In run-fixed.",
    )
    entry = {"before": {"C": 0.2}, "epochs": 20, "advice": "Swap it.", "text": "tried"}
    tuned = {
        "swap": entry | {"helps": True, "after": {"C": 0.5}},
        "input": entry | {"helps": True, "after": {"C": 0.6}},
        "freeze": entry | {"helps": False, "after": {"C": 0.9}},
    }
    (box,) = diagnosis.boxes(PLAIN | {"fine_tune": tuned})
    assert box.title == "proven by training a copy: input"
    assert (box.figure, box.text) == ("20.0 % → 60.0 %", "val clips, 20 epochs. Swap it.")
    assert diagnosis.boxes(PLAIN | {"fine_tune": {"freeze": tuned["freeze"]}}) == []
    assert diagnosis.trainings(PLAIN | {"fine_tune": tuned, "probe_lr": {"text": "rate"}}) == ["rate"] + ["tried"] * 3


def test_whiskers_are_the_interval_of_the_gain() -> None:
    table = {
        "eval": {"A": 0.4, "C": 0.3, "gain": {"A": [0, 0], "C": [0, 0]}},
        "joint": {"A": 0.6, "C": 0.5, "gain": {"A": [0.1, 0.3], "C": [0.15, 0.2]}},
        "target": {"C": 0.45, "gain": {"C": [0.2, 0.25]}},
    }
    figure = diagnosis.remedies_figure(PLAIN | {"recalibration": table})
    assert [row.name for row in figure.rows] == ["running", "one set per layer", "of unlabelled evaluation samples"]
    assert [len(row.lanes) for row in figure.rows] == [2, 2, 1]
    held = [row.lanes[-1][0] for row in figure.rows]
    assert [dot.text for dot in held] == ["30.0", "50.0", "45.0"]
    assert np.allclose([dot.high - dot.value for dot in held], [0, 0, 10])
    assert np.allclose([dot.value - dot.low for dot in held], [0, 5, 0])
    assert figure.tall, "numbers stand above their points: no whisker runs through one"
    alone = diagnosis.remedies_figure(PLAIN | {"recalibration": {"eval": {"A": 0.4, "gain": {"A": [0, 0]}}}})
    assert [key.name for key in alone.keys] == ["training clips"]


SITE = {
    "layer": "norm", "call": 1, "values_per_statistic": 1234.4, "updates": 5, "window": 9.6, "absent": 0.76,
    "dtype": "torch.float32", "train": {"shift": 0.4, "ratio": 1.5}, "eval": {"shift": 0.1, "ratio": 8.0},
}  # fmt: skip


def test_layers_by_hand() -> None:
    table = diagnosis.layers_table([SITE, SITE | {"absent": None}])
    shown = [[c.show(v) for c, v in zip(table.columns, row.cells, strict=True)] for row in table.rows]
    assert shown[0] == ["norm", "2", "1,234", "5", "10", "76", "float32"]
    assert shown[1][5] == ""


@pytest.mark.parametrize(
    ("key", "bound", "values"), [("shift", SHIFT_LIMIT, [0.4, 0.1]), ("ratio", RATIO_LIMIT, [1.5, 8.0])]
)
def test_drift_by_hand(key: str, bound: float, values: list[float]) -> None:
    figure = diagnosis.drift_figure([SITE, SITE | {"layer": "<b>", "train": {"shift": 0.2, "ratio": 1.1}}], key)
    assert [row.name for row in figure.rows] == ["norm · 2", "<b> · 2"]
    assert [lane[0].end for lane in figure.rows[0].lanes] == values
    assert figure.rule == bound
    assert figure.alt.endswith("the largest on training clips is norm, call 2.")
    if key == "ratio":
        assert (figure.x.low, figure.rows[0].lanes[0][0].start) == (1, 1), "bars start at a ratio of 1"
    diagnosis.drift_figure([{key: value for key, value in SITE.items() if key not in ("train", "eval")}], key)


def test_groups_by_hand() -> None:
    doctor = PLAIN | {"groups": {"camera": {"1": [35, 0.125, 0.256]}, "subject": {}}}
    table = diagnosis.groups_table(doctor)
    assert [[c.show(v) for c, v in zip(table.columns, row.cells, strict=True)] for row in table.rows] == [
        ["camera 1", "35", "12.5", "0.26"],
    ]  # fmt: skip


def test_a_page_does_not_land_on_a_recording(runs: Path, tmp_path: Path) -> None:
    """If the value of the option was forgotten."""
    recording = tmp_path / "S001C001P001R001A001.skeleton"
    recording.write_text("2\n0\n0\n")
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / "bn-loop"), "--html", str(recording)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert f"--html {recording} must end in .html" in result.stderr
    assert recording.read_text() == "2\n0\n0\n"

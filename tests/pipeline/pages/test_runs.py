"""Values of the page over runs, by hand."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipeline.pages import run_figures, run_tables, runs
from pipeline.pages.finished import FinishedRun, apart, patient, read_run, wilson, with_distinct_names
from preprocessing.hdf5 import SkeletonFile, open_file


def run(name: str, **changes: Any) -> FinishedRun:
    """A run with a normalization gap of 40 points."""
    norm = {"kind": "bn", "persons": "loop", "input": "none", "momentum": 0.01}
    summary = {
        "train": {"top1": 0.9}, "val": {"top1": 0.5}, "eval": "test",
        "test": {"top1": 0.4, "top5": 0.8, "mean_class": 0.35},
        "accuracies": {"A": 0.45, "B": 0.85, "C": 0.4, "D": 0.7}, "gap": {"normalization": 0.4, "generalization": 0.15},
        "config": {"norm": norm | changes.pop("norm", {}), "data": "/x/clips.h5", "model": {"name": "cnn"},
                   "train": {"epochs": 6, "batch_size": 8, "seed": 3}},
        "clips": {"train": 1000, "val": 400, "test": 500}, "ranks": 2, "device": "cpu", "protocol": "xsub",
        "model": {"params": 1234}, "clips_per_second": 99.6,
    }  # fmt: skip
    doctor = changes.pop("doctor", None)
    return FinishedRun(name, summary | changes, [{"epoch": 1, "train": {"top1": 0.2}}], doctor)


PLAIN = run("plain", norm={"kind": "none"}, train={"top1": 0.8}, test={"top1": 0.7}, gap={"normalization": 0.0})
CAUSE = {"check": "reuse", "recovered": 0.96, "before": 0.4, "after": 0.72}
DOCTOR = {"causes": [CAUSE], "judged": "test", "verdict": "The loop."}


def test_the_headline_compares_the_worst_run_with_the_one_without_norm() -> None:
    sick = run("sick")
    assert patient([PLAIN, sick]) is sick
    expected = "“sick” against “plain”: training accuracy +10 points, test accuracy −30 points"
    assert runs.headline([PLAIN, sick]) == expected
    assert runs.headline([sick]) == "“sick”: running statistics cost 40 points"
    assert runs.headline([PLAIN]) == "Normalization costs no accuracy in these runs"
    limit = [run("a", gap={"normalization": value}) for value in (0.019, 0.02)]
    assert runs.headline(limit[:1]) == "Normalization costs no accuracy in these runs"
    assert runs.headline(limit[1:]) == "“a”: running statistics cost 2 points"


def test_a_difference_that_the_clips_do_not_carry_is_not_claimed() -> None:
    """70 % against 40 % on 5 clips, and against 66 % on 500; Wilson's interval by hand."""
    few = {"clips": {"train": 10, "val": 4, "test": 5}}
    plain = run(
        "plain", norm={"kind": "none"}, train={"top1": 0.8}, test={"top1": 0.7}, gap={"normalization": 0.0}, **few
    )
    assert runs.headline([plain, run("sick", **few)]).endswith("+10 points, no difference shown on 5 test clips")
    near = run("sick", test={"top1": 0.66})
    assert runs.headline([PLAIN, near]).endswith("no difference shown on 500 test clips")
    assert apart(PLAIN, run("sick", test={"top1": 0.64}))
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(0.5, 0) == (0, 1)


def test_the_boxes_say_what_happened_why_and_what_fixes_it() -> None:
    what, why, fix = runs.answer([PLAIN, run("sick", doctor=DOCTOR)])
    assert (what.figure, why.figure, fix.figure) == ("90 % → 40 %", "40.0 points", "40 % → 72 %")
    assert what.text == "training → test accuracy of “sick”; without norm (“plain”) 80 % → 70 %"
    assert "Cause: reuse, 96 % of it. One layer is called once per body" in why.text
    assert fix.text == (
        "on test clips by separate statistics per call, nothing retrained. "
        "Most accurate run: “plain” (trained), 70 % on 500 test clips (95 % interval 66 to 74 %)."
    )
    other = DOCTOR | {"causes": [CAUSE | {"check": "stale"}]}
    _, why, fix = runs.answer([run("sick", doctor=other)])
    assert "One layer" not in why.text
    assert "by new statistics" in fix.text


def test_without_a_cause_the_verdict_or_the_command_stands_there() -> None:
    assert "Run python -m pipeline.doctor" in runs.answer([run("a")])[1].text
    _, why, fix = runs.answer([run("a", doctor=DOCTOR | {"causes": []})])
    assert why.text.endswith("The loop.")
    assert fix.figure == ""


def test_a_repaired_run_is_not_called_trained() -> None:
    repaired = run("fixed", fix={"of": "sick", "remedy": "per_call"}, test={"top1": 0.75}, gap={"normalization": 0.0})
    words = "“fixed” (“sick” repaired, nothing retrained), 75 % on 500 test clips"
    assert words in runs.answer([run("sick"), repaired])[2].text
    weights = [row.cells[-1] for row in run_tables.settings_table([run("sick"), repaired]).rows]
    assert weights == ["trained", "“sick” repaired, nothing retrained"]
    assert run("tuned", init={"run": "/x/first"}).origin == "fine-tuned from “first”"
    curves = run_figures.curves_figure([run("sick"), repaired])
    assert [one.name[:6] for one in curves.series] == ["“sick”"] * 2, "a repaired run has no curves of its own"


def test_a_comparison_on_other_clips_says_so() -> None:
    on_val = run("sick", eval="val")
    assert "other clips" not in runs.answer([PLAIN, run("sick")])[0].text
    assert runs.answer([PLAIN, on_val])[0].text.endswith("80 % → 70 % on test, other clips")
    assert runs.answer([on_val])[0].text == "training → val accuracy of “sick”"


def test_the_setting_is_one_line() -> None:
    assert runs.setting(run("a")) == (
        "clips.h5, xsub: 1000 training, 400 held-out and 500 test clips; network cnn, 6 epochs, batch 8, 2 ranks on "
        "cpu, seed 3"
    )


def test_the_table_has_every_accuracy_and_marks_the_largest_gap() -> None:
    only_val = run("v", test={}, eval="val", val={"top1": 0.5, "top5": 0.9, "mean_class": 0.45})
    table = run_tables.runs_table([PLAIN, run("sick"), only_val])
    assert [row.marked for row in table.rows] == ["", "largest gap", ""]
    shown = [column.show(cell) for column, cell in zip(table.columns, table.rows[1].cells, strict=True)]
    assert shown == [
        "sick", "90.0", "50.0", "40.0", "36 to 44", "80.0", "35.0", "45.0", "85.0", "40.0", "70.0", "40.0", "15.0",
    ]  # fmt: skip
    assert table.rows[2].cells[3:7] == (None, "45 to 55", 0.9, 0.45)
    assert not any(row.marked for row in run_tables.runs_table([run("alone")]).rows)


def test_the_waterfall_ends_at_c() -> None:
    """B 85, minus the gaps of 40 and 15 points, is 30: together they give 10 back."""
    sick = run("sick")
    figure = run_figures.waterfall_figure("sick", sick.summary["accuracies"], sick.summary["gap"], "test")
    bars = [row.lanes[0][0] for row in figure.rows]
    assert np.allclose([(bar.start, bar.end) for bar in bars], [(0, 85), (85, 45), (45, 30), (30, 40), (0, 40)])
    assert [bar.text for bar in bars] == ["85.0", "−40.0", "−15.0", "+10.0", "40.0"]
    assert figure.rows[-1].name == "C: test clips, running statistics"
    without = run_figures.waterfall_figure("sick", {"A": 0.5, "B": 0.9}, {"normalization": 0.4}).rows
    assert np.allclose([row.lanes[0][0].end for row in without], [90, 50, 50, 50, 50])
    assert without[-1].name.startswith("A: training clips")


def test_curves_are_training_and_measured_epochs() -> None:
    lines = [
        {"epoch": 1, "train": {"top1": 0.2}},
        {"epoch": 2, "train": {"top1": 0.4}, "accuracies": {"A": 0.3, "C": 0.1}},
    ]
    both = [replace(run("a"), lines=lines), replace(run("b", val={}), lines=[lines[1] | {"accuracies": {"A": 0.3}}])]
    drawn = [(one.name, one.points) for one in run_figures.curves_figure(both).series]
    assert drawn[:2] == [("“a”, training", ((1, 20), (2, 40))), ("“a”, C, held-out subjects", ((2, 10),))]
    assert drawn[3] == ("“b”, A", ((2, 30),))


def test_accuracies_by_run_and_by_statistics() -> None:
    figure = run_figures.arms_figure([PLAIN, run("<b>")])
    assert [key.name for key in figure.keys] == ["training", "test (unseen)"]
    assert [(row.name, row.note) for row in figure.rows] == [("plain", "no norm"), ("<b>", "bn, loop, momentum 0.01")]
    assert [row.lanes[1][0].end for row in figure.rows] == [70, 40]
    table = {name: {"A": 0.5, "C": value} for name, value in (("joint", 0.6), ("masked", 0.7), ("per_call", 0.8))}
    doctor = DOCTOR | {"accuracies": {"A": 0.45, "C": 0.4}, "recalibration": table}
    shown = run_figures.recalibration_figure(run("sick", doctor=doctor))
    assert shown is not None
    assert [row.name for row in shown.rows] == [
        "running", "one set per layer", "of present bodies", "one set per call",
    ]  # fmt: skip
    assert np.allclose([row.lanes[1][0].end for row in shown.rows], [40, 60, 70, 80])
    assert run_figures.recalibration_figure(run("sick", doctor=DOCTOR | {"recalibration": {}})) is None
    assert run_figures.recalibration_figure(run("sick")) is None


def test_runs_of_one_name_get_the_names_of_their_parents(runs: Path) -> None:
    """Else they would stand on each other in the figures."""
    read = [read_run(runs / "none")] * 2
    folders = [Path("/x/s0/none"), Path("/x/s1/none")]
    assert [one.name for one in with_distinct_names(read, folders)] == ["s0/none", "s1/none"]
    assert with_distinct_names(read[:1], folders[:1]) == read[:1]


def test_a_search_and_a_study_as_tables(tmp_path: Path) -> None:
    """Hidden are errors and what no trial has; fractions in %, settings as they are."""
    trials = [
        {"trial": "0001", "val": 0.5, "optim.lr": 0.0012, "norm.decay": True, "epoch": 3, "error": "x", "D": None},
        {"trial": "0000", "val": None, "optim.lr": None, "norm.decay": False, "epoch": None, "error": "", "D": None},
    ]
    (tmp_path / "results.json").write_text(json.dumps({"trials": trials}))
    table = run_tables.study_table(tmp_path)
    assert table.caption.startswith("The search: 2 settings, ranked on held-out subjects")
    assert [column.title for column in table.columns] == ["trial", "val", "lr", "decay", "epoch"]
    shown = [[c.show(v) for c, v in zip(table.columns, row.cells, strict=True)] for row in table.rows]
    assert shown == [["0001", "50.0", "0.0012", "True", "3"], ["0000", "", "", "False", ""]]
    rows = [{"arm": arm, "seed": seed, "test": 0.5} for arm in ("none", "bn") for seed in (0, 1)]
    (tmp_path / "results.json").write_text(json.dumps({"arms": [{}, {}], "trials": rows}))
    assert run_tables.study_table(tmp_path).caption.startswith("The study: 2 arms in 4 rows, one per arm and seed")
    (tmp_path / "results.json").write_text('{"trials": []}')
    assert run_tables.study_table(tmp_path).caption == "The search: no trials yet"


def test_the_example_is_tracked_in_the_largest_share_of_its_frames() -> None:
    """Nine of ten frames are more than fifteen of twenty."""
    file = SimpleNamespace(
        clips={"frames": np.array([20, 10]), "first_body": np.array([0, 1])},
        present_R=np.arange(30) % 20 < np.where(np.arange(30) < 20, 15, 9),
        body_start=np.array([0, 20]),
        body_clip=np.array([0, 1]),
    )
    assert runs.best_tracked(cast(SkeletonFile, file)) == 1


@pytest.fixture
def file(data_file: Path) -> SkeletonFile:
    return open_file(data_file)


def test_the_example_is_the_first_clip_with_most_bodies_tracked_most(file: SkeletonFile) -> None:
    """Two bodies, the second absent in its first three frames: the longest such clip."""
    best = runs.best_tracked(file)
    pairs = np.flatnonzero(file.clips["bodies"] == 2)
    assert file.clips["bodies"][best] == 2
    assert best == pairs[np.argmax(file.clips["frames"][pairs])]

"""Values of the page over a training under way, by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.pages import live
from preprocessing.pages import Provenance

FOOTER = Provenance("c", "", "", "d")
CONFIG = {
    "data": "/x/clips.h5", "model": {"name": "cnn"}, "norm": {"kind": "bn", "persons": "loop"},
    "train": {"epochs": 10, "batch_size": 8, "seed": 3},
}  # fmt: skip


def line(epoch: int, **more: Any) -> dict[str, Any]:
    train = {"top1": epoch / 10, "loss": 2 / epoch}
    return {"epoch": epoch, "train": train, "seconds": 2.0, "clips_per_second": 1234.5} | more


MEASURED = {
    "accuracies": {"A": 0.2, "B": 0.7, "C": 0.1, "D": 0.6}, "gap": {"normalization": 0.5, "generalization": 0.1},
    "norm": {"norms.0": {"mean_shift": 0.5}}, "evaluation_seconds": 2.0,
}  # fmt: skip
LINES = [line(1), line(2, **MEASURED)]


def test_the_state_is_how_far_it_has_come() -> None:
    """Two epochs of 2 s, one evaluation of 2 s: eight more take 24 s."""
    assert live.state([], CONFIG, False, False) == "waiting for the first epoch"
    assert live.state(LINES, CONFIG, False, False) == "epoch 2 of 10; about 24 s left"
    assert live.state(LINES, CONFIG, True, False) == "finished after 2 epochs"
    assert live.state(LINES, CONFIG, False, True) == "ended: the loss became non-finite"


@pytest.mark.parametrize(("seconds", "words"), [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2 h")])
def test_durations(seconds: float, words: str) -> None:
    assert live.duration(seconds) == words


def test_a_gap_is_a_warning_until_the_doctor_has_answered() -> None:
    (words,) = live.warnings(Path("/r/mine"), LINES, {})
    assert words.startswith("Epoch 2: running statistics cost 50 points on training clips")
    assert words.endswith("skelnorm doctor mine")
    assert live.warnings(Path("r"), LINES, {"verdict": "The loop."}) == ["The doctor: The loop."]
    assert live.warnings(Path("r"), LINES[:1], {}) == []
    small = line(2, **MEASURED | {"gap": {"normalization": 0.01}})
    assert live.warnings(Path("r"), [small], {}) == []
    monitor = line(3, warnings=["the gap opens"])
    assert live.warnings(Path("r"), [monitor], {}) == ["Epoch 3: the gap opens"]
    broken = line(3) | {"train": {"top1": 0.1, "loss": float("nan")}}
    assert live.warnings(Path("r"), [broken], {}) == ["The loss is not finite: lower optim.lr."]


def test_boxes_have_the_newest_figures() -> None:
    shown = {box.title: (box.figure, box.tone) for box in live.boxes(LINES, LINES[1:], {})}
    assert shown == {
        "Training accuracy": ("20.0 %", "plain"),
        "C: running statistics": ("10.0 %", "plain"),
        "Normalization gap": ("+50.0 points", "bad"),
        "Generalization gap": ("+10.0 points", "plain"),
        "Speed": ("1,234 clips/s", "plain"),
    }
    only_a = line(2, accuracies={"A": 0.2, "B": 0.7}, gap={"normalization": 0.0})
    assert "A: running statistics" in {box.title for box in live.boxes([only_a], [only_a], {})}
    done = {"eval": "test", "test": {"top1": 0.25}}
    assert live.boxes(LINES, LINES[1:], done)[-2].figure == "25.0 %"
    assert live.boxes([], [], {}) == []


def test_curves_are_those_of_the_ledger() -> None:
    accuracy, gaps, loss, shift = live.plots(LINES, LINES[1:])
    assert [one.points for one in accuracy.series] == [
        ((1, 10), (2, 20)), ((2, 20),), ((2, 70),), ((2, 10),), ((2, 60),),
    ]  # fmt: skip
    assert [one.points for one in gaps.series] == [((2, 50),), ((2, 10),)]
    assert loss.series[0].points == ((1, 2), (2, 1))
    assert [(one.name, one.points) for one in shift.series] == [("norms.0", ((2, 0.5),))]
    assert "C, held-out clips, running statistics 10" in accuracy.alt
    assert [plot.title for plot in live.plots(LINES[:1], [])] == ["Accuracy by epoch", "Loss by epoch"]
    with_val = [line(1, val={"loss": 3.0})]
    assert [one.name for one in live.plots(with_val, [])[1].series] == ["training loss", "val loss"]
    assert live.plots([], []) == []


def test_the_page_grows_with_the_ledger_and_escapes_names(tmp_path: Path) -> None:
    """Before the settings are written, before the first epoch, and after."""
    run = tmp_path / "<run>"
    run.mkdir()
    assert "has not written its settings yet" in live.page(run, FOOTER)
    (run / "config.json").write_text(json.dumps(CONFIG))
    assert "waiting for the first epoch" in live.page(run, FOOTER)
    with (run / "ledger.jsonl").open("w") as file:
        for count, one in enumerate(LINES, 1):
            file.write(json.dumps(one) + "\n")
            file.flush()
            text = live.page(run, FOOTER)
            assert f"epoch {count} of 10" in text
    assert "<run>" not in text
    assert "clips.h5: network cnn, bn (loop), 10 epochs, batch 8, seed 3" in text
    assert [path.name for path in live.run_files(run) if path.exists()] == ["config.json", "ledger.jsonl"]

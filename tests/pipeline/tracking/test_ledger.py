"""ledger.py: one line per epoch, and after a kill no epoch twice."""

from pathlib import Path

import pytest

from pipeline.tracking.ledger import RunLedger, read


def line(epoch: int) -> dict:
    return {"epoch": epoch, "train": {"top1": 0.5}}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    RunLedger(tmp_path, 0).write(line(1))
    assert (tmp_path / "ledger.jsonl").read_text() == '{"epoch": 1, "train": {"top1": 0.5}}\n'
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"epoch": 2, "tr')
    assert read(tmp_path) == [line(1)]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_epochs_after_the_checkpoint_are_dropped(tmp_path: Path, done: int) -> None:
    """The ledger was ahead of the checkpoint when the run was killed."""
    ledger = RunLedger(tmp_path, 0)
    for epoch in (1, 2, 3):
        ledger.write(line(epoch))
    RunLedger(tmp_path, done).write(line(9))
    assert [entry["epoch"] for entry in read(tmp_path)] == [1, 2, 3][:done] + [9]

"""ledger.py: one line per epoch, and after a kill no epoch twice."""

import json
from pathlib import Path

import pytest

from pipeline.tracking.ledger import RunLedger, read
from preprocessing.files import IntegrityError


def line(epoch: int) -> dict:
    return {"epoch": epoch, "train": {"top1": 0.5}}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    RunLedger(tmp_path, 0).write(line(1))
    (written,) = map(json.loads, (tmp_path / "ledger.jsonl").read_text().splitlines())
    assert len(written.pop("chain")) == 64
    assert written == line(1)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"epoch": 2, "tr')
    assert read(tmp_path) == [line(1)]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_epochs_after_the_checkpoint_are_dropped(tmp_path: Path, done: int) -> None:
    """The ledger was ahead of the checkpoint when the run was killed."""
    ledger = RunLedger(tmp_path, 0)
    for epoch in (1, 2, 3):
        ledger.write(line(epoch))
    after = min(done, 3) + 1
    RunLedger(tmp_path, done).write(line(after))
    assert [entry["epoch"] for entry in read(tmp_path)] == [*range(1, after + 1)]


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        ([line(1), line(3)], "line 2 has epoch 3: must be 2"),
        ([line(2), line(2)], "line 2 has epoch 2: must be 3"),
        ([line(1), {"train": {}}], "line 2 is not the record of an epoch"),
        ([line(1), 5], "line 2 is not the record of an epoch"),
        ([{"epoch": True}], "line 1 is not the record of an epoch"),
        ([{"epoch": "1"}], "line 1 is not the record of an epoch"),
        ([line(1), line(2) | {"train": {"top1": "0.5"}}], "line 2 has train.top1 '0.5': must be a number"),
        ([line(1) | {"train": {"top1": 1.5}}], "line 1 has train.top1 1.5: must be between 0 and 1"),
        ([line(1) | {"accuracies": [0.5]}], r"line 1 has accuracies \[0.5\]: must be an object"),
        ([line(1) | {"seconds": None, "accuracies": {"C": -0.1}}], "line 1 has accuracies.C -0.1: must be between"),
    ],
)
def test_gaps_and_wrong_types_are_named(tmp_path: Path, records: list, fault: str) -> None:
    """For those who read it, and for a training that would append."""
    (tmp_path / "ledger.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    for opened in (read, lambda run: RunLedger(run, 9)):
        with pytest.raises(IntegrityError, match=f"ledger.jsonl: {fault}"):
            opened(tmp_path)


def test_a_ledger_may_begin_later(tmp_path: Path) -> None:
    """Where it was lost and the loss was accepted; else the first epoch is 1."""
    (tmp_path / "ledger.jsonl").write_text(f"{json.dumps(line(4))}\n")
    assert read(tmp_path) == [line(4)]
    with pytest.raises(IntegrityError, match="line 1 has epoch 4: must be 1"):
        read(tmp_path, first=1)

"""ledger.py: ended tasks are never repeated, tasks under way come first, a torn line does not count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocessing.files import IntegrityError
from tuning.ledger import NAME, OtherStudy, Outcome, StudyLedger, Task

WHOSE = {"kind": "search", "epochs": 2}


def task(name: str) -> Task:
    """A task with re-evaluations, which are a tuple before and after."""
    return Task(name, {"norm.kind": "bn", "optim.lr": 0.1 + 0.2}, seed=3, re_evaluations=("joint",))


def outcome(name: str) -> Outcome:
    """One that went well."""
    return Outcome(task(name), "finished", curve=[{"epoch": 1, "val": 0.5}])


def test_begun_and_ended_are_known_after_a_restart(tmp_path: Path) -> None:
    """Bit for bit, order kept."""
    ledger = StudyLedger(tmp_path, WHOSE)
    for name in "abc":
        ledger.begin(task(name))
    ledger.end(outcome("b"))
    again = StudyLedger(tmp_path, WHOSE)
    assert again.under_way == {"a": task("a"), "c": task("c")}
    assert again.ended == {"b": outcome("b")}


def test_every_byte_at_which_a_kill_can_tear_the_ledger_leaves_whole_lines(tmp_path: Path) -> None:
    """The torn record is written again; the file is then as it would have been."""
    ledger = StudyLedger(tmp_path, WHOSE)
    ledger.begin(task("a"))
    before = (tmp_path / NAME).read_bytes()
    ledger.end(outcome("a"))
    whole = (tmp_path / NAME).read_bytes()
    for end in range(len(before), len(whole)):
        (tmp_path / NAME).write_bytes(whole[:end])
        torn = StudyLedger(tmp_path, WHOSE)
        assert torn.under_way == {"a": task("a")}
        torn.end(outcome("a"))
        assert (tmp_path / NAME).read_bytes() == whole


def test_a_task_begun_twice_is_one_line(tmp_path: Path) -> None:
    """As after a resume."""
    StudyLedger(tmp_path, WHOSE).begin(task("a"))
    again = StudyLedger(tmp_path, WHOSE)
    again.begin(task("a"))
    assert (tmp_path / NAME).read_text().count("begun") == 1


def test_the_folder_of_another_study_is_rejected(tmp_path: Path) -> None:
    """The message names the settings that differ."""
    StudyLedger(tmp_path, WHOSE)
    with pytest.raises(OtherStudy, match=r"other settings \(epochs\); choose another --out"):
        StudyLedger(tmp_path, WHOSE | {"epochs": 3})


def test_failed_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    """The driver was killed between a trial's failure and its second attempt."""
    StudyLedger(tmp_path, WHOSE).fail(task("a"), "killed: by signal 9")
    again = StudyLedger(tmp_path, WHOSE)
    again.end(outcome("a"))
    assert again.ended["a"].attempts == 2


EDITS: dict[str, tuple[int, Callable[[dict[str, Any]], Any]]] = {
    "NaN": (3, lambda line: line["ended"]["curve"][0].update(val=float("nan"))),
    "no study": (1, lambda line: line.pop("study")),
    "name": (2, lambda line: line["begun"].update(name=5)),
    "seed": (2, lambda line: line["begun"].update(seed="3")),
    "missing": (2, lambda line: line["begun"].pop("variants")),
    "unknown": (2, lambda line: line["begun"].update(colour=1)),
    "event": (3, lambda line: line.pop("ended")),
    "outcome": (3, lambda line: line["ended"].update(outcome="won")),
    "curve": (3, lambda line: line["ended"].update(curve={"val": 1})),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_line_is_named(tmp_path: Path, name: str) -> None:
    """The file and the line; without the edit the ledger opens."""
    ledger = StudyLedger(tmp_path, WHOSE)
    ledger.begin(task("a"))
    ledger.end(outcome("a"))
    StudyLedger(tmp_path, WHOSE)
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    number, change = EDITS[name]
    change(lines[number - 1])
    (tmp_path / NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(IntegrityError, match=rf"ledger.jsonl: line {number} is .*Restore the file from a copy"):
        StudyLedger(tmp_path, WHOSE)

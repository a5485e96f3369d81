"""ledger.py: ended tasks are never repeated, tasks under way come first, a torn line does not count."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import adopt
from preprocessing import journal
from preprocessing.files import IntegrityError
from tests.processes import forked
from tuning.ledger import NAME, OtherStudy, Outcome, StudyLedger, Task

HEAD = "ledger.head.json"
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
    before, head = (tmp_path / NAME).read_bytes(), (tmp_path / HEAD).read_bytes()
    ledger.end(outcome("a"))
    whole = (tmp_path / NAME).read_bytes()
    for end in range(len(before), len(whole)):
        (tmp_path / NAME).write_bytes(whole[:end])
        (tmp_path / HEAD).write_bytes(head)
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


ARMS = {"bn": {"settings": {"norm.kind": "bn"}, "of": ""}, "gn": {"settings": {"norm.kind": "gn"}, "of": ""}}
SETS = {"utd": {"data_sha256": "1", "protocol": ""}, "kard": {"data_sha256": "2", "protocol": ""}}
GROWN = {"kind": "study", "epochs": 2, "arms": ARMS, "sets": SETS}


def without(key: str, name: str) -> dict[str, Any]:
    """The study before `name` was added."""
    return GROWN | {key: {other: value for other, value in GROWN[key].items() if other != name}}


@pytest.mark.parametrize("first", [without("arms", "gn"), without("sets", "kard")])
def test_a_study_can_get_more_arms_and_data_sets(tmp_path: Path, first: dict[str, Any]) -> None:
    """Trials that ended are kept; from then on the smaller study is another one."""
    StudyLedger(tmp_path, first).end(outcome("a"))
    assert StudyLedger(tmp_path, GROWN).ended == {"a": outcome("a")}
    assert StudyLedger(tmp_path, GROWN).ended == {"a": outcome("a")}
    assert (tmp_path / NAME).read_text().count('{"study"') == 2
    with pytest.raises(OtherStudy):
        StudyLedger(tmp_path, first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arms": ARMS | {"bn": {"settings": {"norm.kind": "ln"}, "of": ""}}}, "arms: bn"),
        ({"arms": {"gn": ARMS["gn"], "ln": ARMS["bn"]}}, "arms: bn"),
        ({"arms": ARMS | {"joint": {"settings": {}, "of": "bn"}}}, "arms: joint"),
        ({"sets": SETS | {"utd": {"data_sha256": "3", "protocol": ""}}, "epochs": 3}, "epochs; sets: utd"),
    ],
    ids=["changed", "renamed", "a re-evaluation of trainings that have ended", "other data"],
)
def test_arms_and_data_sets_of_a_study_cannot_change(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """The message names them."""
    StudyLedger(tmp_path, GROWN)
    with pytest.raises(OtherStudy, match=rf"other settings \({named}\); choose"):
        StudyLedger(tmp_path, GROWN | change)


@pytest.mark.parametrize("line", ['{"study": 3}', '{"study": []}'])
def test_a_later_line_that_names_no_study_is_damage(tmp_path: Path, line: str) -> None:
    """Accepted by `adopt` or written by another program: never replayed."""
    ledger = StudyLedger(tmp_path, GROWN)
    ledger._append(json.loads(line))
    with pytest.raises(IntegrityError, match="line 2 is not the record of an event"):
        StudyLedger(tmp_path, GROWN)


def test_failed_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    """The driver was killed between a trial's failure and its second attempt."""
    StudyLedger(tmp_path, WHOSE).fail(task("a"), "killed: by signal 9")
    again = StudyLedger(tmp_path, WHOSE)
    again.end(outcome("a"))
    assert again.ended["a"].attempts == 2


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Make a ledger of three lines; return them without checksums."""
    ledger = StudyLedger(folder, WHOSE)
    ledger.begin(task("a"))
    ledger.end(outcome("a"))
    return list(journal.read(folder / NAME))


def made_old(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Write a ledger as versions without checksums did."""
    (folder / NAME).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / HEAD).unlink(missing_ok=True)


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
    """In a ledger of an older version, without checksums: the file and the line; without the edit it opens."""
    lines = recorded(tmp_path)
    made_old(tmp_path, lines)
    StudyLedger(tmp_path, WHOSE)
    number, change = EDITS[name]
    change(lines[number - 1])
    made_old(tmp_path, lines)
    with pytest.raises(IntegrityError, match=rf"ledger.jsonl: line {number} is .*Restore the file from a copy"):
        StudyLedger(tmp_path, WHOSE)


def better(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"val": 0.5', b'"val": 0.9') for line in lines]


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": better,
    "edited, without checksums": lambda lines: [re.sub(rb', "chain": "\w+"', b"", line) for line in better(lines)],
    "end dropped": lambda lines: lines[:2],
    "line dropped": lambda lines: [lines[0], lines[2]],
    "swapped": lambda lines: [lines[0], lines[2], lines[1]],
    "line added": lambda lines: [*lines, lines[2]],
    "emptied": lambda lines: [],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_ledger_is_named_until_it_is_adopted(tmp_path: Path, name: str) -> None:
    """Control: without checksums, a ledger of an older version with the same change opens."""
    recorded(tmp_path)
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(b"".join(TAMPERED[name](lines)))
    with pytest.raises(IntegrityError, match=rf"ledger.jsonl.*skelnorm adopt {tmp_path}"):
        StudyLedger(tmp_path, WHOSE)
    if name == "emptied":
        with pytest.raises(IntegrityError, match="has 0 of 3 lines"):
            adopt.adopt(tmp_path)
        return
    assert adopt.adopt(tmp_path) == [NAME]
    assert adopt.adopt(tmp_path) == []
    StudyLedger(tmp_path, WHOSE).begin(task("b"))
    assert [entry["parts"] for entry in json.loads((tmp_path / HEAD).read_text())["adopted"]] == [[NAME]]
    made_old(tmp_path, journal.read(tmp_path / NAME))
    StudyLedger(tmp_path, WHOSE)


def test_a_head_that_is_removed_is_missed(tmp_path: Path) -> None:
    recorded(tmp_path)
    (tmp_path / HEAD).unlink()
    with pytest.raises(IntegrityError, match=f"{HEAD} is missing"):
        StudyLedger(tmp_path, WHOSE)


def test_a_ledger_of_an_older_version_is_watched_from_now_on(tmp_path: Path) -> None:
    lines = recorded(tmp_path)
    made_old(tmp_path, lines)
    StudyLedger(tmp_path, WHOSE).begin(task("b"))
    first, *rest = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(b"".join([first.replace(b"2", b"3"), *rest]))
    with pytest.raises(IntegrityError, match="was edited, dropped or inserted"):
        StudyLedger(tmp_path, WHOSE)


@pytest.mark.parametrize("time", [1, 2, 3])
@pytest.mark.parametrize("point", ["line appended", "file renamed"])
def test_a_kill_between_a_line_and_its_head_loses_nothing(tmp_path: Path, point: str, time: int) -> None:
    assert forked(lambda: recorded(tmp_path) and None, f"{point}:{time}") == -signal.SIGKILL
    again = StudyLedger(tmp_path, WHOSE)
    again.begin(task("a"))
    if "a" not in again.ended:
        again.end(outcome("a"))
    assert StudyLedger(tmp_path, WHOSE).ended == {"a": outcome("a")}


def test_what_a_stopped_task_reported_stays_when_it_goes_on_and_fails(tmp_path: Path) -> None:
    """Its accuracy there was compared with others. An epoch that is reported again replaces the earlier line."""
    ledger = StudyLedger(tmp_path, WHOSE)
    ledger.end(Outcome(task("a"), "stopped", curve=[{"epoch": 1, "val": 0.5}, {"epoch": 2, "val": 0.6}]))
    ledger.end(Outcome(task("a"), "failed", "memory: none left", curve=[{"epoch": 2, "val": 0.7}]))
    assert ledger.ended["a"].curve == [{"epoch": 1, "val": 0.5}, {"epoch": 2, "val": 0.7}]
    assert StudyLedger(tmp_path, WHOSE).ended == ledger.ended


@pytest.mark.parametrize(
    ("cause", "again"),
    [
        ("no space: no space left for checkpoint.json", True),
        ("worker lost: The node died.", True),
        ("memory: none left", False),
        ("non-finite: loss is nan in epoch 2", False),
    ],
)
def test_a_failure_of_the_machine_is_tried_again_by_the_next_command(tmp_path: Path, cause: str, again: bool) -> None:
    """Not by the same one. A failure of the task itself would come again."""
    ledger = StudyLedger(tmp_path, WHOSE)
    ledger.begin(task("a"))
    ledger.end(Outcome(task("a"), "failed", cause))
    assert list(ledger.ended) == ["a"]
    resumed = StudyLedger(tmp_path, WHOSE)
    assert (list(resumed.under_way), list(resumed.ended)) == ((["a"], []) if again else ([], ["a"]))
    assert resumed.recorded("a") == task("a")
    resumed.begin(task("a"))
    resumed.end(outcome("a"))
    assert list(StudyLedger(tmp_path, WHOSE).ended) == ["a"]

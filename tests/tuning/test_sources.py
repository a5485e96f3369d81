"""sources.py: a list of tasks in its order; every event is in the ledger before it is shown."""

import json
from pathlib import Path

from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.sources import TaskList
from tuning.trial_spec import TrialSpec

TASKS = [Task(name, {"norm.kind": "bn"}, 0) for name in "ab"]


class Watching(ProgressReporter):
    """A reporter that notes what the ledger holds when a trial ends."""

    def on_end(self, outcome: Outcome) -> None:
        self.seen = json.loads((self.study / "ledger.jsonl").read_text().splitlines()[-1])
        super().on_end(outcome)


def test_events_are_recorded_in_order_and_before_they_are_shown(tmp_path: Path) -> None:
    reporter = Watching(tmp_path, "study", 2, 0, "off")
    source = TaskList(TASKS, lambda task: TrialSpec(task.settings), StudyLedger(tmp_path, {}), reporter)
    assert [source.next(), source.next(), source.next()] == [*TASKS, None]
    assert source.spec(TASKS[0]) == TrialSpec({"norm.kind": "bn"})
    source.on_attempt_failed(TASKS[1], "time: not finished after 3 s")
    source.on_end(Outcome(TASKS[1], "finished"))
    begun_a, begun_b, failed, ended = map(json.loads, (tmp_path / "ledger.jsonl").read_text().splitlines()[1:])
    assert (begun_a["begun"]["name"], begun_b["begun"]["name"]) == ("a", "b")
    assert (failed["failed"], failed["cause"]) == ("b", "time: not finished after 3 s")
    assert (ended["ended"]["task"]["name"], ended["ended"]["attempts"]) == ("b", 2)
    assert reporter.seen == ended
    assert list(StudyLedger(tmp_path, {}).under_way) == ["a"]

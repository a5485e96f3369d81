"""Sources of tasks for the engine: a base that records and reports, and a fixed list of tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from tuning.ledger import Outcome, StudyLedger, Task
from tuning.progress import ProgressReporter
from tuning.trial_spec import TrialSpec

MakeSpec = Callable[[Task], TrialSpec]


class RecordedSource:
    """Base of the sources: writes events to the ledger, then reports them.

    Args:
        make_spec: Returns the full specification of a task.
        ledger: The study's record.
        reporter: Progress bar and W&B runs.
    """

    def __init__(self, make_spec: MakeSpec, ledger: StudyLedger, reporter: ProgressReporter) -> None:
        self.spec, self.ledger, self.reporter = make_spec, ledger, reporter

    def on_attempt_failed(self, task: Task, cause: str) -> None:
        """Record a failed attempt."""
        self.ledger.fail(task, cause)

    def on_end(self, outcome: Outcome) -> None:
        """Record the end of a task, then report it."""
        self.ledger.end(outcome)
        self.reporter.on_end(outcome)


class TaskList(RecordedSource):
    """Source of a fixed list of tasks.

    Args:
        tasks: The tasks that have not ended, in the order in which they start.
        make_spec: Returns the full specification of a task.
        ledger: The study's record.
        reporter: Progress bar and W&B runs.
    """

    def __init__(
        self, tasks: Iterable[Task], make_spec: MakeSpec, ledger: StudyLedger, reporter: ProgressReporter
    ) -> None:
        super().__init__(make_spec, ledger, reporter)
        self.left = deque(tasks)

    def next(self) -> Task | None:
        """Return the next task; None when the list is empty."""
        if not self.left:
            return None
        task = self.left.popleft()
        self.ledger.begin(task)
        return task

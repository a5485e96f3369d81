"""progress.py: one line per trial that ended, and the bar."""

from pathlib import Path

import pytest

from tuning.ledger import Outcome, Task
from tuning.progress import ProgressReporter, describe

DRAWN = Task("0001", {"norm.kind": "bn", "optim.lr": 0.00123, "norm.mask_max": True}, 0)


def test_a_task_is_described_by_its_settings_or_by_its_arm() -> None:
    assert describe(DRAWN) == "kind bn  lr 0.0012  mask_max True"
    assert describe(Task("a-s2", {"norm.kind": "bn"}, 2, arm="a")) == "a, seed 2"


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome(DRAWN, "finished", curve=[{"epoch": 3, "val": 0.25}]), "0001  val  25.0 %  epoch 3  kind bn"),
        (Outcome(DRAWN, "stopped"), "0001  stopped  kind bn"),
        (Outcome(DRAWN, "failed", cause="memory: [x]", curve=[{"epoch": 1, "val": 1.0}]), "0001  failed (memory: [x])"),
    ],
)
def test_each_trial_that_ended_has_a_line(
    outcome: Outcome, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Causes are printed as they are, without markup."""
    with ProgressReporter(tmp_path, "search", 2, 0, "off") as reporter:
        reporter.on_end(outcome)
    assert line in capsys.readouterr().err


def test_the_bar_counts_earlier_trials_and_shows_the_best(tmp_path: Path) -> None:
    """The best of this run of the command; a trial without accuracy counts as 0."""
    reporter = ProgressReporter(tmp_path, "search", 9, 4, "off")
    for val in (0.5, 0.75, None, 0.25):
        reporter.on_end(Outcome(DRAWN, "finished", curve=[{"epoch": 1, "val": val}] if val else []))
    (bar,) = reporter.progress.tasks
    assert (bar.completed, bar.total, bar.description) == (8, 9, "best val 75.0 %")

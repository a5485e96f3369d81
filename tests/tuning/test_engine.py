"""engine.py without a running Ray: the scheduler, the resources of a trial, the events that reach the source."""

import copy
import errno
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from preprocessing import exits
from tuning import engine
from tuning.attempt import EPOCH_METRICS
from tuning.engine import Asha, Resources
from tuning.ledger import Outcome, Task
from tuning.trial_spec import TrialSpec

METRICS = dict.fromkeys(EPOCH_METRICS, 0.5)


class Recorder:
    """A source of two tasks that notes what it receives."""

    def __init__(self) -> None:
        self.left = [Task("a", {}, 0, ranks=2), Task("b", {}, 1)]
        self.events: list[Any] = []

    def next(self) -> Task | None:
        return self.left.pop(0) if self.left else None

    def spec(self, task: Task) -> TrialSpec:
        return TrialSpec({"nproc": task.ranks}, read_test=True, threads=3)

    def on_attempt_failed(self, task: Task, cause: str) -> None:
        self.events.append((task.name, cause))

    def on_end(self, outcome: Outcome) -> None:
        self.events.append(outcome)


def test_one_trial_in_three_goes_on_and_a_full_training_ends_by_itself() -> None:
    """max_t is beyond the last epoch; the grace period is at most the whole training."""
    scheduler = engine._scheduler(Asha(grace=2, epochs=9))
    assert isinstance(scheduler, ASHAScheduler)
    assert (scheduler._time_attr, scheduler._max_t, scheduler._reduction_factor) == ("epoch", 10, 3)
    (bracket,) = scheduler._brackets
    assert [milestone for milestone, _ in bracket._rungs] == [6, 2]
    assert engine._scheduler(Asha(grace=30, epochs=9))._brackets[0]._rungs[-1][0] == 9
    assert isinstance(engine._scheduler(None), FIFOScheduler)


@pytest.mark.parametrize(("ranks", "bundle"), [(1, {"CPU": 2.0, "GPU": 0.5}), (3, {"CPU": 6.0, "GPU": 1.5})])
def test_all_ranks_of_a_trial_share_one_bundle(ranks: int, bundle: dict[str, float]) -> None:
    """Cores and GPUs are per rank."""
    config = {"spec": TrialSpec({"nproc": ranks}).to_json()}
    assert engine._placement(config, Resources(2, 0.5, None)).bundles == [bundle]


def test_tasks_are_suggested_with_their_specification_until_there_is_none() -> None:
    live = engine._Live(Recorder())
    searcher = engine._searcher(live)
    spec = {"settings": {"nproc": 2}, "test": True, "variants": [], "threads": 3, "memory": 0.0, "keep": False}
    assert searcher.suggest("one") == {"name": "a", "spec": spec}
    assert searcher.suggest("two")["name"] == "b"
    assert searcher.suggest("three") == Searcher.FINISHED
    assert {key: task.name for key, task in live.tasks.items()} == {"one": "a", "two": "b"}


@pytest.fixture
def started() -> tuple[Recorder, Any]:
    """A source whose task `a` is running as Ray's trial `one`, and the callback of the driver."""
    recorder = Recorder()
    live = engine._Live(recorder)
    engine._searcher(live).suggest("one")
    return recorder, engine._callback(live)


def trial(result: dict[str, Any] | None = None, error_file: Path | None = None) -> Any:
    """Ray's trial `one`."""
    return SimpleNamespace(trial_id="one", last_result=result, error_file=error_file and str(error_file))


def test_an_outcome_has_the_curve_and_ends_the_task(started: tuple[Recorder, Any]) -> None:
    """Ray's own entries are left out. An epoch that is repeated after a failure replaces the earlier one."""
    recorder, callback = started
    for epoch, val in ((2, 0.1), (1, 0.2), (2, 0.3)):
        result = METRICS | {"epoch": epoch, "val": val, "pid": 7, "done": epoch == 2}
        callback.on_trial_result(0, [], trial(), result)
    callback.on_trial_result(0, [], trial(), {"done": True, "result": {}})
    final = {"summary": {"train": 1}, "variants": {"joint": {"A": 1.0}}}
    callback.on_trial_complete(0, [], trial({"result": final}))
    curve = [METRICS | {"epoch": 1, "val": 0.2}, METRICS | {"epoch": 2, "val": 0.3}]
    (outcome,) = recorder.events
    assert outcome == Outcome(
        Task("a", {}, 0, ranks=2), "finished", curve=curve, summary={"train": 1}, re_evaluations={"joint": {"A": 1.0}}
    )


def test_a_trial_that_ends_without_a_result_was_stopped(started: tuple[Recorder, Any]) -> None:
    """By the scheduler."""
    recorder, callback = started
    callback.on_trial_complete(0, [], trial(METRICS))
    assert recorder.events == [Outcome(Task("a", {}, 0, ranks=2), "stopped")]


class Full(Recorder):
    """A source whose record cannot be written."""

    def on_end(self, outcome: Outcome) -> None:
        raise OSError(errno.ENOSPC, "no space left", "ledger.jsonl")


class Keeping(Recorder):
    """A source whose trials keep their checkpoints."""

    def spec(self, task: Task) -> TrialSpec:
        return replace(super().spec(task), keep=True)


@pytest.mark.parametrize(("source", "stay"), [(Recorder, False), (Keeping, True), (Full, True)])
def test_the_checkpoints_of_a_finished_trial_go_once_its_end_is_on_record(
    tmp_path: Path, source: type[Recorder], stay: bool
) -> None:
    """Before, a kill would repeat the training."""
    checkpoints = tmp_path / "a" / "checkpoints"
    checkpoints.mkdir(parents=True)
    live = engine._Live(source(), tmp_path)
    engine._searcher(live).suggest("one")
    engine._callback(live).on_trial_complete(0, [], trial({"result": {"summary": {}, "variants": {}}}))
    assert checkpoints.exists() == stay
    assert not (tmp_path / "a" / "dropped").exists()


def test_an_error_of_the_record_ends_the_run_and_not_the_trial() -> None:
    """Ray would take it for a failure of the trial. Later events are not recorded."""
    live = engine._Live(Full())
    searcher, callback = engine._searcher(live), engine._callback(live)
    searcher.suggest("one")
    searcher.suggest("two")
    callback.on_trial_complete(0, [], trial(METRICS))
    callback.on_trial_complete(0, [], SimpleNamespace(trial_id="two", last_result=METRICS))
    with pytest.raises(OSError, match="no space left") as caught:
        callback.on_step_begin(0, [])
    assert exits.code(caught.value) == exits.NO_SPACE


@pytest.mark.parametrize("goes_on", [False, True], ids=["stopped by ASHA", "paused"])
def test_the_checkpoints_of_a_trial_that_asha_stopped_are_removed_when_the_next_one_ends(
    tmp_path: Path, goes_on: bool
) -> None:
    """Not before: its processes may still write one."""
    checkpoints = tmp_path / "a" / "checkpoints"
    checkpoints.mkdir(parents=True)
    live = engine._Live(Recorder(), tmp_path, given_up=not goes_on)
    searcher, callback = engine._searcher(live), engine._callback(live)
    searcher.suggest("one")
    searcher.suggest("two")
    callback.on_trial_complete(0, [], trial(METRICS))
    assert checkpoints.exists()
    callback.on_trial_complete(0, [], SimpleNamespace(trial_id="two", last_result=METRICS))
    assert checkpoints.exists() == goes_on


def test_each_failed_attempt_is_reported_and_the_last_one_ends_the_task(
    started: tuple[Recorder, Any], tmp_path: Path
) -> None:
    """The cause is the last one in Ray's file, which grows."""
    recorder, callback = started
    file = tmp_path / "error.txt"
    for cause in ("time: not finished after 3 s", "memory: none left"):
        with file.open("a") as stream:
            stream.write(f"Traceback\n  x\ntuning.attempt.AttemptFailed: {cause}\n")
        event = callback.on_trial_recover if cause.startswith("time") else callback.on_trial_error
        event(0, [], trial(error_file=file))
    assert recorder.events == [
        ("a", "time: not finished after 3 s"),
        ("a", "memory: none left"),
        Outcome(Task("a", {}, 0, ranks=2), "failed", cause="memory: none left"),
    ]


def test_a_lost_worker_is_named_by_the_first_line_of_ray() -> None:
    """As when its node died."""
    assert engine.cause_from_ray("\n  The actor died.\n  Details\n") == "worker lost: The actor died."
    assert engine.cause_from_ray("") == "worker lost: no reason given"


def test_an_interrupt_is_kept_until_it_is_raised_outside_a_finalizer() -> None:
    """The state is never copied, and is empty where Ray unpickles it."""
    live = engine._Live(Recorder())
    live.raise_if_ended()
    with pytest.raises(KeyboardInterrupt):
        live.interrupt()
    with pytest.raises(KeyboardInterrupt):
        engine._callback(live).on_step_begin(0, [])
    assert copy.deepcopy(live) is live
    assert pickle.loads(pickle.dumps(live)).source is None


def interrupted(live: engine._Live, number: int) -> None:
    """A signal during one of Ray's waits: Ray raises a KeyboardInterrupt, whatever our handler raised."""
    with live.interruptible():
        live.signal = number
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, exits.Terminated), (signal.SIGINT, KeyboardInterrupt), (0, KeyboardInterrupt)],
)
def test_an_interrupt_of_rays_own_does_not_hide_the_signal(number: int, error: type[BaseException]) -> None:
    """The exit code is that of the signal."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(engine._Live(Recorder()), number)
    for one, handler in before.items():
        signal.signal(one, handler)
    assert caught.type is error

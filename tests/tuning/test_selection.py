"""selection.py: rates and arms are chosen on validation, and nothing that chooses reads the test split."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tuning.arms import Arm, Arms
from tuning.ledger import Outcome, Task
from tuning.selection import Candidate, at_rung, best_of_each, candidates, screened, survivors
from tuning.study import Study, list_tasks

ARMS = Arms("none", {"none": Arm(), "bn": Arm({"norm.kind": "bn"}), "gn": Arm({"norm.kind": "gn"})})
SETS = ("ucla", "utd")


def ended(task: Task, val: float | None) -> Outcome:
    """A task that reached this accuracy; None: it failed."""
    if val is None:
        return Outcome(task, "failed", cause="memory")
    return Outcome(task, "finished", curve=[{"epoch": 1, "val": 1.0}, {"epoch": 2, "val": val}])


def test_a_candidate_per_rate_that_never_reads_the_test_split(data_file: Path) -> None:
    tasks = candidates([Task("bn-s0", {"norm.kind": "bn"}, 0, "bn", 2, ("joint",))], [1e-3, 0.0003])
    assert [(task.name, task.settings) for task in tasks] == [
        ("bn-s0-choosing-lr-0.001", {"norm.kind": "bn", "optim.lr": 0.001}),
        ("bn-s0-choosing-lr-0.0003", {"norm.kind": "bn", "optim.lr": 0.0003}),
    ]
    study = Study(data_file, Path("out"), arms="norms")
    assert all(not study.spec(task).read_test and not task.re_evaluations and task.ranks == 2 for task in tasks)
    assert study.spec(Task("bn-s0", {}, 0)).read_test


def test_without_rates_a_task_keeps_its_own() -> None:
    (task,) = candidates([Task("bn-s0", {"optim.lr": 0.01}, 0, "bn")], [])
    assert (task.name, task.settings, task.choosing) == ("bn-s0-choosing", {"optim.lr": 0.01}, True)


def at_end(outcomes: Iterable[Outcome]) -> list[Candidate]:
    """Candidates that are compared at their last epoch."""
    return at_rung(outcomes, 0, None)


def test_the_best_last_epoch_wins_and_a_failed_training_is_no_candidate() -> None:
    (first, second, third) = candidates([Task("bn-s0", {}, 0, "bn", data_set="utd")], [1e-4, 1e-3, 1e-2])
    best = best_of_each(at_end([ended(first, 0.5), ended(second, 0.75), ended(third, None)]))
    assert best["utd", "bn"].outcome.task is second
    assert best_of_each(at_end([ended(third, None)])) == {}


def test_candidates_are_compared_at_one_epoch_whatever_was_trained_beyond() -> None:
    """So an interrupted command, and one that was trained with more epochs, choose alike."""
    (far, near) = candidates([Task("bn-s0", {}, 0, "bn", data_set="utd")], [1e-4, 1e-3])
    long = Outcome(far, "finished", curve=[{"epoch": 3, "val": 0.4}, {"epoch": 6, "val": 0.9}])
    short = Outcome(near, "stopped", curve=[{"epoch": 3, "val": 0.5}])
    found = at_rung([long, short], 0, 3)
    assert [(one.epoch, one.val) for one in found] == [(3, 0.4), (3, 0.5)]
    assert best_of_each(found)["utd", "bn"].outcome is short
    assert best_of_each([*found, *at_rung([long], 1, 6)])["utd", "bn"].outcome is long


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.1, 0.2, 0.3], [0.3]),
        ([0.3, 0.1, 0.3, 0.2], [0.3, 0.3]),
        ([0.5, 0.5, 0.5], [0.5] * 3),
        ([0.1], [0.1]),
        ([], []),
    ],
)
def test_the_best_third_survives_with_its_ties_in_any_order(values: list[float], kept: list[float]) -> None:
    those = at_end(ended(Task(str(place), {}, 0), value) for place, value in enumerate(values))
    assert [one.val for one in survivors(those)] == kept
    assert {one.outcome.task.name for one in survivors(those)} == {
        one.outcome.task.name for one in survivors(those[::-1])
    }


def test_who_passed_a_rung_stands_before_who_did_not() -> None:
    first = at_rung([ended(task, 0.9) for task in candidates(list_tasks(ARMS, 1, SETS), [])], 0, None)
    later = [one._replace(rung=1, val=0.2) for one in first if one.outcome.task.arm == "gn"]
    assert list(screened(ARMS, best_of_each([*first, *later]), SETS, keep=1).arms) == ["none", "gn"]


def test_the_arms_with_the_best_mean_rank_and_the_baseline_remain() -> None:
    """An arm that failed on a set ranks last there; a re-evaluation stays with its arm."""
    arms = Arms("none", ARMS.arms | {"bn, joint": Arm(of="bn", re_evaluation="joint")})
    val = {"none": (0.1, 0.1), "bn": (0.9, 0.5), "gn": (0.8, None)}
    first = candidates(list_tasks(arms, 1, SETS), [])
    best = best_of_each(at_end(ended(task, val[task.arm][SETS.index(task.data_set)]) for task in first))
    assert list(screened(arms, best, SETS, keep=1).arms) == ["none", "bn", "bn, joint"]
    assert screened(arms, best, SETS, keep=0) is arms
    assert screened(arms, best, SETS, keep=3) is arms


def test_a_re_evaluation_that_always_stays_keeps_its_arm() -> None:
    arms = Arms("none", ARMS.arms | {"bn, joint": Arm(of="bn", re_evaluation="joint")}, always=("bn, joint",))
    val = {"none": 0.5, "bn": 0.1, "gn": 0.9}
    best = best_of_each(at_end(ended(task, val[task.arm]) for task in candidates(list_tasks(arms, 1, SETS), [])))
    assert list(screened(arms, best, SETS, keep=1).arms) == ["none", "bn", "gn", "bn, joint"]


def test_an_arm_that_always_stays_is_never_removed() -> None:
    arms = Arms(ARMS.baseline, ARMS.arms, always=("gn",))
    val = {"none": 0.5, "bn": 0.9, "gn": 0.1}
    best = best_of_each(at_end(ended(task, val[task.arm]) for task in candidates(list_tasks(arms, 1, SETS), [])))
    assert list(screened(arms, best, SETS, keep=1).arms) == ["none", "bn", "gn"]


def test_ties_go_to_the_arm_that_stands_first() -> None:
    best = best_of_each(at_end(ended(task, 0.5) for task in candidates(list_tasks(ARMS, 1, SETS), [])))
    assert list(screened(ARMS, best, SETS, keep=2).arms) == ["none", "bn"]


def test_each_arm_is_trained_on_each_set_in_a_folder_of_its_own() -> None:
    names = [task.name for task in list_tasks(ARMS, 2, SETS)]
    assert len(set(names)) == len(names) == 12
    assert names[:4] == ["ucla--none-s0", "ucla--bn-s0", "ucla--gn-s0", "utd--none-s0"]
    with pytest.raises(ValueError, match="two data sets, have names"):
        list_tasks(ARMS, 1, ("UCLA", "ucla"))


def test_a_candidate_that_failed_later_still_stands_where_it_was_compared() -> None:
    """So the same third goes on when the command is repeated; but it is never chosen."""
    (first, second) = candidates([Task("bn-s0", {}, 0, "bn", data_set="utd")], [1e-4, 1e-3])
    diverged = Outcome(first, "failed", "non-finite: loss", curve=[{"epoch": 3, "val": 0.9}])
    other = Outcome(second, "stopped", curve=[{"epoch": 3, "val": 0.5}])
    found = at_rung([diverged, other], 0, 3)
    assert [one.val for one in found] == [0.9, 0.5]
    assert at_rung([diverged], 1, 6) == at_rung([diverged], 1, None) == []
    assert best_of_each(found)["utd", "bn"].outcome is other


def test_a_choice_that_holds_is_not_made_again() -> None:
    (first, second) = candidates([Task("bn-s0", {}, 0, "bn", data_set="utd")], [1e-4, 1e-3])
    found = at_end([ended(first, 0.5), ended(second, 0.75)])
    assert best_of_each(found)["utd", "bn"].outcome.task is second
    assert best_of_each(found, {("utd", "bn"): {"optim.lr": 1e-4}})["utd", "bn"].outcome.task is first
    assert best_of_each(found, {("sbu", "bn"): {"optim.lr": 1e-4}})["utd", "bn"].outcome.task is second

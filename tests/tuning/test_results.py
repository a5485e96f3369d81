"""results.py: best first, failed last, the same table as JSON and CSV; arms paired by seed."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from tuning import results
from tuning.arms import Arm, Arms
from tuning.attempt import EPOCH_METRICS
from tuning.ledger import Outcome, Task


def searched(name: str, val: float | None, outcome: str = "finished") -> Outcome:
    """A trial of a search that reached this accuracy in its last epoch; None: it was never evaluated."""
    curve = [] if val is None else [{"epoch": 1, "val": 0.0}, {"epoch": 2, "val": val, "A": 0.25}]
    return Outcome(Task(name, {"norm.kind": name}, 0), outcome, curve=curve, attempts=2, cause="")


SEARCHED = [
    searched("b", 0.5),
    searched("a", 0.5),
    searched("f", None, "failed"),
    searched("z", 0.75),
    searched("0", 0.0),
]


def test_trials_are_sorted_best_first_and_those_without_accuracy_last() -> None:
    """An accuracy of zero is an accuracy; ties are sorted by name."""
    assert [outcome.task.name for outcome in results.best_first(SEARCHED)] == ["z", "a", "b", "0", "f"]


def test_a_failed_trial_with_a_curve_is_not_ranked() -> None:
    assert results.is_ranked(searched("a", 0.0))
    assert not results.is_ranked(searched("a", 0.5, "failed"))
    assert not results.is_ranked(searched("a", None))


def test_json_and_csv_hold_the_same_rows(tmp_path: Path) -> None:
    """With the command that made them."""
    results.write(tmp_path, {"command": {"trials": "5"}, "trials": results.search_rows(SEARCHED)})
    document = results.read_results(tmp_path)
    table = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert document["command"] == {"trials": "5"}
    assert [row["trial"] for row in document["trials"]] == [row["trial"] for row in table] == ["z", "a", "b", "0", "f"]
    assert [row["val"] for row in table] == ["0.75", "0.5", "0.5", "0.0", ""]
    first = document["trials"][0]
    assert (first["norm.kind"], first["optim.lr"], first["epoch"], first["A"], first["B"]) == ("z", None, 2, 0.25, None)
    assert (first["attempts"], first["error"], first["outcome"]) == (2, "", "finished")
    assert list(first)[:2] == ["trial", "outcome"]
    assert list(first)[-11:] == [*EPOCH_METRICS, "attempts", "error"]


ARMS = Arms("plain", {"plain": Arm(), "better": Arm(), "recalibrated": Arm(of="plain", re_evaluation="per_call")})


def ended(arm: str, seed: int, test: float, val: float = 0.5) -> Outcome:
    """A finished trial with this accuracy."""
    task = Task(f"{arm}-s{seed}", {}, seed, arm=arm, re_evaluations=ARMS.re_evaluations_of(arm))
    summary: dict[str, Any] = {
        "train": {"top1": 1.0}, "val": {"top1": val}, "test": {"top1": test}, "eval": "test",
        "accuracies": {"A": 0.25, "B": 1.0, "C": test, "D": 0.75}, "gap": {"normalization": 0.75},
    }  # fmt: skip
    again = {"test": {"top1": test + 0.25}, "val": {"top1": 0.875}, "A": 1.0, "identical": False}
    return Outcome(task, "finished", summary=summary, re_evaluations={"per_call": again} if arm == "plain" else {})


def study() -> dict[str, Any]:
    """Three seeds of two arms, one of them failed with seed 2. By test accuracy "better" would come first."""
    outcomes = [ended("plain", seed, test) for seed, test in enumerate((0.5, 0.25, 0.375))]
    outcomes += [ended("better", 0, 0.875, val=0.75), ended("better", 1, 0.75, val=0.625)]
    outcomes.append(Outcome(Task("better-s2", {}, 2, arm="better"), "failed", cause="time: too long", attempts=2))
    return results.study_document(ARMS, outcomes)


def test_effects_are_paired_by_seed() -> None:
    """A seed that one arm lacks counts for neither; the baseline has no effect.

    Differences .375 and .5: mean .4375, standard error .0625, t = 7 with one degree of freedom. The quantile of .975
    is 12.7062, and p is 1 - 2 / pi * atan(7).
    """
    arms = {row["arm"]: row for row in study()["arms"]}
    assert (arms["better"]["n"], arms["better"]["pairs"], arms["better"]["failed"]) == (2, 2, 1)
    assert (arms["plain"]["n"], arms["plain"]["failed"]) == (3, 0)
    assert arms["better"]["effect"] == 0.4375
    assert arms["better"]["interval"] == pytest.approx((0.4375 - 0.794138, 0.4375 + 0.794138), abs=1e-6)
    assert arms["better"]["p"] == pytest.approx(1 - 2 / math.pi * math.atan(7))
    assert arms["better"]["p_holm"] == 2 * arms["better"]["p"]
    assert [arms["plain"][key] for key in ("effect", "interval", "p", "p_holm", "pairs")] == [None, None, None, None, 0]


def test_p_is_corrected_for_the_number_of_arms_without_the_baseline() -> None:
    """The re-evaluation's three differences are all .25: p is 2 ** -2, which is the larger one of two."""
    arms = {row["arm"]: row for row in study()["arms"]}
    assert (arms["recalibrated"]["p"], arms["recalibrated"]["interval"], arms["recalibrated"]["p_holm"]) == (
        0.25,
        None,
        0.25,
    )
    smaller = study_of_three_arms()
    assert smaller["recalibrated"]["p_holm"] == 0.25
    assert smaller["better"]["p_holm"] == 2 * smaller["better"]["p"] < 0.05


def study_of_three_arms() -> dict[str, dict[str, Any]]:
    """The arms of a study in which one is clearly better, by name."""
    outcomes = [ended("plain", seed, 0.25 + seed / 64) for seed in range(3)]
    outcomes += [ended("better", seed, 0.5 + seed / 60) for seed in range(3)]
    return {row["arm"]: row for row in results.study_document(ARMS, outcomes)["arms"]}


def test_a_re_evaluation_is_an_arm_of_the_same_trials() -> None:
    """It has A and C of its own; B, D and the training accuracy are those of the trained network."""
    document = study()
    (row,) = (row for row in document["arms"] if row["arm"] == "recalibrated")
    assert (row["n"], row["effect"], row["val"], row["A"], row["B"]) == (3, 0.25, 0.875, 1.0, 1.0)
    assert (row["C"], row["D"], row["train"]) == (0.375 + 0.25, 0.75, 1.0)
    assert row["normalization_gap"] == 0.0
    assert row["identical"] is False
    assert [r["trial"] for r in document["trials"] if r["arm"] == "recalibrated"] == [
        "plain-s0",
        "plain-s1",
        "plain-s2",
    ]


def test_arms_are_sorted_by_val_although_the_test_split_disagrees() -> None:
    """The test split decides nothing: by test accuracy the first two would be swapped."""
    document = study()
    assert [row["arm"] for row in document["arms"]] == ["recalibrated", "better", "plain"]
    test = {row["arm"]: row["test"] for row in document["arms"]}
    assert test["better"] > test["recalibrated"] > test["plain"]
    assert (document["judged"], document["baseline"]) == ("test", "plain")


def test_an_arm_without_a_finished_trial_has_a_row_without_metrics() -> None:
    """It comes last; a file without a test split is evaluated on val."""
    outcomes = [ended("plain", 0, 0.5), Outcome(Task("better-s0", {}, 0, arm="better"), "failed", cause="x")]
    outcomes[0].summary["test"].clear()
    outcomes[0].re_evaluations["per_call"].pop("test")
    document = results.study_document(ARMS, outcomes)
    assert document["judged"] == "val"
    last = document["arms"][-1]
    assert (last["arm"], last["n"], last["failed"], last["val"], last["effect"]) == ("better", 0, 1, None, None)
    recalibrated = document["arms"][0]
    assert (
        recalibrated["arm"],
        recalibrated["val"],
        recalibrated["effect"],
        recalibrated["interval"],
        recalibrated["p"],
    ) == ("recalibrated", 0.875, 0.375, None, None)
    assert (recalibrated["train_std"], recalibrated["test"]) == (None, None)


@pytest.mark.parametrize(("mean", "std", "shown"), [(0.5, 0.012, "50.0 ± 1.2"), (0.5, None, "50.0"), (None, None, "")])
def test_plus_minus(mean: float | None, std: float | None, shown: str) -> None:
    """In percent."""
    assert results.plus_minus(mean, std) == shown


def test_a_study_that_is_judged_on_val_shows_c_on_val() -> None:
    """C and D of a trial are those of the test split where the file has one: D on val was not measured."""
    outcomes = [ended("better", 0, test=0.5, val=0.75)]
    on_test, on_val = (results.study_document(ARMS, outcomes, split)["trials"][0] for split in ("test", "val"))
    assert (on_test["C"], on_test["D"]) == (0.5, 0.75)
    assert (on_val["C"], on_val["D"]) == (0.75, None)

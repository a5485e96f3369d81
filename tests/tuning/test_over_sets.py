"""over_sets.py: each data set counts once; effects, ranks and their tests by hand."""

from typing import Any

import pytest
from scipy import stats

from tuning.arms import Arm, Arms
from tuning.ledger import Outcome, Task
from tuning.over_sets import combined_document
from tuning.results import study_document

ARMS = Arms("none", {"none": Arm(), "bn": Arm(), "gn": Arm()})
# set -> arm -> test accuracy of each seed
TEST = {
    "ucla": {"none": (0.5, 0.7), "bn": (0.8, 0.8), "gn": (0.6, 0.6)},
    "utd": {"none": (0.4,), "bn": (0.5,), "gn": (0.6,)},
    "sbu": {"none": (0.25,), "bn": (0.75,), "gn": (0.25,)},
}


def outcomes(test: dict[str, dict[str, tuple[float, ...]]] = TEST, split: str = "test") -> list[Outcome]:
    """Finished trials; validation accuracy is 1 - test."""
    made = []
    for name, arms in test.items():
        for arm, values in arms.items():
            for seed, value in enumerate(values):
                summary: dict[str, Any] = {
                    "train": {"top1": 1.0}, "val": {"top1": 1 - value}, "test": {"top1": value}, "eval": "test",
                    "accuracies": {"A": 0.5, "B": 0.75, "C": value, "D": 0.5}, "gap": {"normalization": 0.25},
                }  # fmt: skip
                if split == "val":
                    summary["test"] = {}
                task = Task(f"{name}-{arm}-s{seed}", {}, seed, arm, data_set=name)
                made.append(Outcome(task, "finished", summary=summary))
    return made


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By arm."""
    return {row["arm"]: row for row in document["arms"]}


def test_each_set_counts_once_however_many_seeds_it_has() -> None:
    """Effects of bn: +.2, +.1, +.5 on the three sets, the first of them a mean of two seeds."""
    bn = rows(combined_document(ARMS, outcomes(), list(TEST)))["bn"]
    test = stats.ttest_1samp([0.2, 0.1, 0.5], 0.0)
    low, high = test.confidence_interval(0.95)
    assert (bn["n"], bn["pairs"]) == (3, 3)
    assert bn["effect"] == pytest.approx(0.8 / 3)
    assert bn["p"] == pytest.approx(test.pvalue)
    assert bn["interval"] == pytest.approx((low, high))
    assert bn["test"] == pytest.approx((0.8 + 0.5 + 0.75) / 3)


def test_sets_with_the_same_trainings_count_as_one() -> None:
    """Effects of bn: the mean of +.2 and +.1, and +.5; ranks of the means .5, .65, .6 and of sbu."""
    document = combined_document(ARMS, outcomes(), list(TEST), {"ucla": "ucla", "utd": "ucla", "sbu": "sbu"})
    bn = rows(document)["bn"]
    assert (bn["n"], bn["pairs"]) == (3, 2)
    assert bn["effect"] == pytest.approx((0.15 + 0.5) / 2)
    assert bn["p"] == pytest.approx(stats.ttest_1samp([0.15, 0.5], 0.0).pvalue)
    assert {arm: row["rank"] for arm, row in rows(document).items()} == pytest.approx(
        {"none": (3 + 2.5) / 2, "bn": 1.0, "gn": (2 + 2.5) / 2}
    )


def test_ranks_are_averaged_over_sets_and_ties_share_theirs() -> None:
    """Ucla: bn 1, none and gn 2.5; utd: gn 1, bn 2, none 3; sbu: bn 1, none and gn 2.5."""
    document = combined_document(ARMS, outcomes(), list(TEST))
    found = {arm: row["rank"] for arm, row in rows(document).items()}
    assert found == pytest.approx({"none": 8 / 3, "bn": 4 / 3, "gn": 2.0})
    values = [[0.6, 0.4, 0.25], [0.8, 0.5, 0.75], [0.6, 0.6, 0.25]]
    assert document["friedman_p"] == pytest.approx(stats.friedmanchisquare(*values).pvalue)


def test_an_arm_without_a_result_on_a_set_has_no_rank_and_the_effects_of_the_others() -> None:
    document = combined_document(ARMS, [o for o in outcomes() if o.task.name != "utd-gn-s0"], list(TEST))
    found = rows(document)
    assert (found["gn"]["rank"], found["gn"]["n"], found["gn"]["pairs"]) == (None, 2, 2)
    assert [found[arm]["rank"] for arm in ("bn", "none")] == [1.0, 2.0]
    assert document["friedman_p"] is None


def test_holm_counts_the_arms_once() -> None:
    found = rows(combined_document(ARMS, outcomes(), list(TEST)))
    ordered = sorted((found[arm]["p"], arm) for arm in ("bn", "gn"))
    assert found[ordered[0][1]]["p_holm"] == pytest.approx(2 * ordered[0][0])
    assert found["none"]["p"] is None


def test_a_set_without_a_test_split_moves_all_sets_to_val() -> None:
    """Not a mixture of two splits under one name."""
    mixed = outcomes({"ucla": TEST["ucla"]}) + outcomes({"utd": TEST["utd"]}, split="val")
    document = combined_document(ARMS, mixed, ["ucla", "utd"])
    assert document["judged"] == "val"
    assert rows(document)["bn"]["effect"] == pytest.approx((-0.2 - 0.1) / 2)


def test_each_set_has_the_table_of_a_study_of_its_own() -> None:
    document = combined_document(ARMS, outcomes(), list(TEST))
    alone = study_document(ARMS, [o for o in outcomes() if o.task.data_set == "ucla"])
    assert document["sets"]["ucla"]["arms"] == alone["arms"]
    assert [row["set"] for row in document["trials"]] == ["ucla"] * 6 + ["utd"] * 3 + ["sbu"] * 3


def test_a_set_on_which_every_trial_failed_changes_nothing_for_the_others() -> None:
    """It has its rows, with the number of failures; the others are evaluated on test as before, with the same ranks."""
    failed = [
        Outcome(Task(f"sbu-{arm}-s0", {}, 0, arm, data_set="sbu"), "failed", cause="memory: none left")
        for arm in ARMS.arms
    ]
    two = [one for one in outcomes() if one.task.data_set != "sbu"]
    without = combined_document(ARMS, two, ["ucla", "utd"])
    document = combined_document(ARMS, two + failed, list(TEST))
    assert (document["judged"], document["friedman_p"]) == ("test", without["friedman_p"])
    for arm, row in rows(document).items():
        assert row == rows(without)[arm] | {"failed": 1}
    assert [row["failed"] for row in document["sets"]["sbu"]["arms"]] == [1, 1, 1]

"""results.py: best first, failed last, the same table as JSON and CSV; arms paired by seed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tuning import results
from tuning.arms import Arm, Arms
from tuning.ledger import Outcome, Task

ROWS = [
    {"trial": 0, "norm.kind": "bn", "val": 0.5, "error": ""},
    {"trial": 1, "norm.kind": "gn", "val": None, "error": "ValueError: x"},
    {"trial": 2, "norm.kind": "none", "val": 0.75, "error": ""},
    {"trial": 3, "norm.kind": "none", "val": 0.0, "error": ""},
]


def test_best_first_and_failed_last() -> None:
    """An accuracy of zero is an accuracy."""
    assert [row["trial"] for row in results.order(ROWS)] == [2, 0, 3, 1]


def test_json_and_csv_hold_the_same_rows(tmp_path: Path) -> None:
    """With the command that made them."""
    results.write(tmp_path, {"command": {"trials": "4"}, "trials": results.order(ROWS)})
    document = json.loads((tmp_path / "results.json").read_text())
    table = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert document["command"] == {"trials": "4"}
    assert [row["trial"] for row in document["trials"]] == [int(row["trial"]) for row in table] == [2, 0, 3, 1]
    assert [row["val"] for row in table] == ["0.75", "0.5", "0.0", ""]


ARMS = Arms("plain", {"plain": Arm(), "better": Arm(), "anew": Arm(of="plain", variant="per_call")})


def ended(arm: str, seed: int, test: float, val: float = 0.5) -> Outcome:
    """A finished trial with this accuracy."""
    task = Task(f"{arm}-s{seed}", {}, seed, arm=arm, variants=ARMS.variants_of(arm))
    summary: dict[str, Any] = {
        "train": {"top1": 1.0}, "val": {"top1": val}, "test": {"top1": test}, "eval": "test",
        "accuracies": {"A": 0.25, "B": 1.0, "C": test, "D": 0.75}, "gap": {"normalization": 0.75},
    }  # fmt: skip
    again = {"test": {"top1": test + 0.25}, "val": {"top1": 0.875}, "A": 1.0, "identical": False}
    return Outcome(task, "finished", summary=summary, variants={"per_call": again} if arm == "plain" else {})


def study() -> dict[str, Any]:
    """Three seeds of two arms, one of them failed with seed 2."""
    outcomes = [ended("plain", seed, test) for seed, test in enumerate((0.5, 0.25, 0.375))]
    outcomes += [ended("better", 0, 0.625, val=0.75), ended("better", 1, 0.5, val=0.75)]
    outcomes.append(Outcome(Task("better-s2", {}, 2, arm="better"), "failed", cause="time: too long", attempts=2))
    return results.of_arms(ARMS, outcomes)


def test_effects_are_paired_by_seed() -> None:
    """A seed that one arm lacks counts for neither; the baseline has no effect."""
    arms = {row["arm"]: row for row in study()["arms"]}
    assert (arms["better"]["n"], arms["better"]["pairs"], arms["better"]["failed"]) == (2, 2, 1)
    assert arms["better"]["effect"] == (0.625 - 0.5 + 0.5 - 0.25) / 2
    assert arms["better"]["interval"] == (0.125, 0.25)
    assert arms["plain"]["effect"] is arms["plain"]["p_holm"] is None
    assert arms["better"]["p"] <= arms["better"]["p_holm"] <= 2 * arms["better"]["p"]


def test_another_evaluation_is_an_arm_of_the_same_trials() -> None:
    """Its own A and C; B, D and the training accuracy are those of the trained network."""
    document = study()
    (row,) = (row for row in document["arms"] if row["arm"] == "anew")
    assert (row["n"], row["effect"], row["val"], row["A"], row["B"]) == (3, 0.25, 0.875, 1.0, 1.0)
    assert row["normalization_gap"] == 0.0
    assert row["identical"] is False
    assert [r["trial"] for r in document["trials"] if r["arm"] == "anew"] == ["plain-s0", "plain-s1", "plain-s2"]


def test_arms_stand_in_the_order_of_val() -> None:
    """Not of test: nothing is chosen by it."""
    assert [row["arm"] for row in study()["arms"]] == ["anew", "better", "plain"]


@pytest.mark.parametrize(("mean", "std", "shown"), [(0.5, 0.012, "50.0 ± 1.2"), (0.5, None, "50.0"), (None, None, "")])
def test_plus_minus(mean: float | None, std: float | None, shown: str) -> None:
    """In percent."""
    assert results.plus_minus(mean, std) == shown

"""results.py: best first, failed last, the same table as JSON and CSV."""

import csv
import json
from pathlib import Path

from tuning import results

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
    results.write(tmp_path, {"trials": "4"}, ROWS)
    document = json.loads((tmp_path / "results.json").read_text())
    table = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert document["command"] == {"trials": "4"}
    assert [row["trial"] for row in document["trials"]] == [int(row["trial"]) for row in table] == [2, 0, 3, 1]
    assert [row["val"] for row in table] == ["0.75", "0.5", "0.0", ""]

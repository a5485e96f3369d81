"""The study's table: one row a trial, as JSON and CSV, best first, failed trials last."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from preprocessing import files


def order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best validation accuracy first; trials without one last."""
    return sorted(rows, key=lambda row: (row.get("val") is None, -(row.get("val") or 0.0), row["trial"]))


def write(study: Path, command: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Publish STUDY/results.json and STUDY/results.csv."""
    rows = order(rows)
    files.publish_json(study / "results.json", {"command": command, "trials": rows})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(rows)
    files.publish_text(study / "results.csv", text.getvalue())

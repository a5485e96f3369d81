"""Rivals: what counts as a named cause, what a repair recovers, and that a missing tool is left out."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.normbugs import rivals
from tests.normbugs.case import NORM_CAUSES, Case, Patient
from tests.normbugs.training import right, scorer


def _patient() -> Patient:
    """A network that tells x > 7 apart by its running mean, which was never trained."""
    torch.manual_seed(0)
    x = 3 * torch.randn(64, 1) + 7
    batches = [(x[i : i + 16], (x[i : i + 16, 0] > x.mean()).long()) for i in range(0, 64, 16)]
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        model[1].bias.zero_()
    return Patient(model.eval(), batches, batches, scorer(batches, right))


def _case() -> Case:
    return Case("none", "https://example.org", "kind", ("stale",), "rebuilt", False, lambda seed, fixed: _patient())


def _line(twin: str, score: float, **more: Any) -> dict[str, Any]:
    doctors = {"first": "stale" if twin == "buggy" else None, "false": []}
    return {"case": "a", "seed": 0, "twin": twin, "score": score, "expected": ["stale", "reuse"]} | doctors | more


def test_reports_mean_causes_of_the_benchmark() -> None:
    assert {cause for causes in rivals.REPORTS.values() for cause in causes} <= NORM_CAUSES | {"shift"}
    assert rivals.meant({"reported": ["TA501", "TA400"]}) == {"reuse"}
    assert rivals.meant({"error": "x"}) == set()


def test_update_bn_recovers_statistics_that_were_never_trained() -> None:
    patient = _patient()
    assert patient.score(patient.model) < 0.7
    assert rivals.update_bn_of_torch(patient, _case())["score"] > 0.95
    assert patient.model[0].running_mean.item() == 0


def test_a_missing_tool_is_left_out_and_a_crash_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(patient: Patient, case: Case) -> dict[str, Any]:
        raise KeyError("x")

    tools = {"away": ("not_installed_here", crash), "broken": ("torch", crash)}
    monkeypatch.setattr(rivals, "RIVALS", tools)
    assert rivals.absent() == ["away"]
    assert rivals.asked(_patient(), _case()) == {"broken": {"error": "KeyError: 'x'"}}


def test_the_table_counts_names_false_alarms_and_what_is_recovered() -> None:
    answers = {"torch-audit 0.3.0": {"reported": ["TA501"]}, "torch update_bn": {"score": 0.7}}
    lines = [
        _line("buggy", 0.5, rivals=answers, outside=0.9),
        _line("fixed", 0.9, rivals=answers),
        _line("buggy", 0.5, rivals=answers, case="b", first="small"),
    ]
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in _rows(lines)}
    assert rows["the doctor"] == ["1 of 2", "0 of 1", "0 of 1", "100 % (n 1)", "0"]
    assert rows["torch-audit 0.3.0"] == ["2 of 2", "1 of 1", "1 of 1", "-", "0"]
    assert rows["torch update_bn"] == ["-", "-", "-", "50 % (n 1)", "0"]
    assert rows["mldoct 1.0.0"][0] == "not installed"
    assert rivals.table([_line("buggy", 0.5)]) == ""


def _rows(lines: list[dict[str, Any]]) -> list[str]:
    return rivals.table(lines).splitlines()[2:]

"""Every case is well formed and shows its symptom; the fast suite trains three of them."""

import re

import pytest
import torch
from torch import nn

from tests.bench import normbugs as bench
from tests.normbugs.case import NORM_CAUSES, Case, Patient, load, names
from tests.normbugs.judge import judge, worse
from tests.normbugs.repairs import joint, per_call, per_sample
from tests.normbugs.training import norms, right, scorer

FAST = ("pytorch_3869",)


@pytest.mark.parametrize("name", names())
def test_a_case_names_its_thread_and_its_cause(name: str) -> None:
    case = load(name)
    assert case.name == name
    assert re.fullmatch(r"https://[\w./-]+", case.thread)
    assert set(case.causes) <= NORM_CAUSES
    assert case.certainty in ("maintainer", "reporter", "rebuilt")


def test_threads_are_told_apart() -> None:
    threads = [load(name).thread for name in names()]
    assert len(threads) == len(set(threads))


@pytest.mark.parametrize("name", FAST)
def test_the_buggy_program_scores_worse(name: str) -> None:
    _show_symptom(load(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names()) - set(FAST)))
def test_every_buggy_program_scores_worse(name: str) -> None:
    _show_symptom(load(name))


def _show_symptom(case: Case) -> None:
    scores = []
    for fixed in (False, True):
        torch.manual_seed(0)
        patient = case.make(0, fixed)
        scores.append(patient.score(patient.model))
    assert worse(*scores), f"buggy {scores[0]:.3f}, fixed {scores[1]:.3f}"


@pytest.mark.slow
def test_judge_tells_right_from_wrong() -> None:
    case = load(FAST[0])
    buggy, fixed = judge(case, 0)
    assert buggy["symptom"]
    assert buggy["right"]
    assert buggy["agrees"]
    assert abs(buggy["promised"] - buggy["outside"]) < 0.02
    assert fixed["false"] == []
    other = Case(case.name, case.thread, case.kind, ("mode",), case.certainty, case.blind, case.make)
    assert not judge(other, 0)[0]["right"]


class Twice(nn.Module):
    """One norm, called on x and on 10 x + 5."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.norm(x), self.norm(10 * x + 5)], 1)


def _patient(model: nn.Module) -> Patient:
    x, y = torch.randn(64, 2) * 3 + 7, torch.zeros(64, dtype=torch.long)
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    return Patient(model, batches, batches, scorer(batches, right))


def test_joint_recomputes_the_population_statistics() -> None:
    torch.manual_seed(0)
    patient = _patient(nn.Sequential(nn.BatchNorm1d(2)))
    x = torch.cat([batch[0] for batch in patient.train])
    (norm,) = norms(joint(patient))
    torch.testing.assert_close(norm.running_mean, x.mean(0))
    torch.testing.assert_close(norm.running_var, x.var(0))
    assert patient.model[0].running_mean.tolist() == [0, 0]


def test_per_call_normalizes_each_call_by_its_own_statistics() -> None:
    torch.manual_seed(0)
    patient = _patient(Twice())
    x = torch.cat([batch[0] for batch in patient.train])
    y = per_call(patient)(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0), torch.ones(4), atol=1e-4, rtol=0)


def test_per_sample_undoes_running_statistics_of_instance_norms() -> None:
    model = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True)).eval()
    x = torch.randn(8, 2, 16) * 3 + 7
    y = per_sample(Patient(model, [], [], len))(x)
    torch.testing.assert_close(y.mean(2), torch.zeros(8, 2), atol=1e-5, rtol=0)
    assert model[0].track_running_stats


def test_scorer_keeps_the_model() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    patient = _patient(model)
    patient.score(model)
    assert model[0].num_batches_tracked == 0
    assert worse(float("nan"), 0.5)
    assert not worse(0.5, 0.52)
    assert worse(-3.0, -1.0)


def test_table_counts_what_is_right_and_lists_what_is_not() -> None:
    line = {"kind": "mode", "case": "a", "seed": 0, "twin": "buggy", "expected": ["mode"], "symptom": True}
    right = {**line, "named": ["mode"], "first": "mode", "right": True, "agrees": True, "kept": True, "blind": True}
    wrong = {**line, "seed": 1, "named": ["stale"], "first": "stale", "right": False, "agrees": True}
    fixed = {**right, "twin": "fixed", "symptom": None, "right": False, "false": ["mode"]}
    text = bench.table([right, wrong, fixed, {"case": "b", "seed": 0, "twin": "buggy", "failed": "it broke"}])
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert rows["mode"] == "| mode | 1 | 2 of 2 | 1 of 2 | 1 of 2 | 1 of 3 | 1 of 1 | 1 of 1 |"
    assert rows["**all, blind**"] == "| **all, blind** | 1 | 1 of 1 | 1 of 1 | 1 of 1 | 1 of 2 | 1 of 1 | 1 of 1 |"
    assert "* a, buggy, seeds [1]: WRONG: stale (expected mode)" in text
    assert "* b, buggy, seeds [0]: CRASH: it broke" in text

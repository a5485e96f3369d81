"""The doctor's benchmarks: what they call right, and that one small case of each runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent / "bench"
sys.path.append(str(HERE))  # as for a script there, which imports its neighbours

from tests.bench import averages, orders, pictures  # noqa: E402

NO_GAIN = {"recomputed": 0.0, "larger": 0.0, "evaluation": 0.0}


@pytest.mark.parametrize(
    ("costs", "named", "causes", "expected"),
    [
        (True, ["foreign", "small"], ["foreign"], True),
        (True, ["overfit"], [], False),
        (True, [], [], False),
        (False, ["averaging"], [], True),
        (False, ["stale"], ["stale"], False),
    ],
)
def test_an_average_is_right_where_it_costs_and_is_named(
    costs: bool, named: list[str], causes: list[str], expected: bool
) -> None:
    assert averages.right({"costs": costs, "named": named, "causes": causes}) is expected


@pytest.mark.parametrize(
    ("named", "facts", "false"),
    [
        (["leakage", "correlated"], {"recomputed": 1.0}, ["leakage", "correlated"]),
        (["small"], {"larger": -0.03}, []),
        (["small"], {"evaluation": 0.5}, ["small"]),
        (["overfit"], {"evaluation": 0.03}, []),
        (["overfit"], {"larger": 0.5}, ["overfit"]),
        (["stale"], {"recomputed": 0.01}, ["stale"]),
        (["stale"], {"recomputed": 0.03}, []),
        (["a new name"], {}, ["a new name"]),
    ],
)
def test_a_statement_is_false_where_no_plain_pass_bears_it_out(
    named: list[str], facts: dict[str, float], false: list[str]
) -> None:
    assert orders.false_names(named, NO_GAIN | facts) == false


def test_torchs_update_recovers_what_a_lagging_average_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averages, "EPOCHS", 3)
    train, held_out = averages.digits()
    made = averages.averages("dense", 0, train)["ema-0.995"].module
    line = averages.judge("dense", made, train, held_out)
    assert line["costs"]
    assert line["gain_eval"] > 0.2
    assert averages.right(line)


def test_every_form_of_an_average_gives_the_same_outputs() -> None:
    train, _ = averages.digits()
    average = averages.averages("rows", 0, train[:4])["swa-0.25"]
    outputs = [averages.handed_over("rows", average, form)(train[0][0]) for form in averages.FORMS]
    assert all(torch.equal(outputs[0], output) for output in outputs[1:])


def test_a_loader_of_pictures_repeats_itself() -> None:
    made = pictures.Made(10, 8, 4, 0)
    first, second = list(made), list(made)
    assert [len(y) for _, y in first] == [4, 4, 2]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("module", [averages, orders, pictures])
def test_help_has_examples(module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert f"python tests/bench/{Path(module.__file__).name} --" in capsys.readouterr().out


@pytest.mark.slow
def test_the_orders_resume(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "orders.py"), "--networks", "digits", "--out", str(tmp_path), "--orders"]

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "orders.jsonl").read_text().splitlines()]

    subprocess.run([*command, "1"], check=True)
    subprocess.run([*command, "2"], check=True)
    assert [line["order"] for line in lines()] == [0, 1]

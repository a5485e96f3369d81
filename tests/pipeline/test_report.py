"""report.py: the ledger survives a kill, W&B is never fatal and holds no secret."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import report
from pipeline.report import Ledger


def line(epoch: int) -> dict:
    """One epoch's figures."""
    return {"epoch": epoch, "train": {"top1": 0.5}}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """As a kill in mid-write leaves it."""
    ledger = Ledger(tmp_path, {}, "off", 0)
    ledger.write(line(1))
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"epoch": 2, "tr')
    assert report.read(tmp_path) == [line(1)]


def test_epochs_that_will_be_trained_again_are_not_kept_twice(tmp_path: Path) -> None:
    """The ledger was ahead of the checkpoint when the run was killed."""
    ledger = Ledger(tmp_path, {}, "off", 0)
    for epoch in (1, 2, 3):
        ledger.write(line(epoch))
    Ledger(tmp_path, {}, "off", 2).write(line(3))
    assert [entry["epoch"] for entry in report.read(tmp_path)] == [1, 2, 3]


def test_wandb_that_cannot_start_costs_a_message_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Online without key or network; the ledger has every figure."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    ledger = Ledger(tmp_path, {}, "online", 0)
    ledger.write(line(1))
    ledger.close({"test": {"top1": 0.5}})
    assert "W&B is off for this run" in capsys.readouterr().err
    assert report.read(tmp_path) == [line(1)]


def test_a_wandb_run_holds_figures_and_no_secret(tmp_path: Path) -> None:
    """Neither arguments nor the key; read from the bytes of its file."""
    code = (
        "import sys; from pathlib import Path; from pipeline.report import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]), {'lr': 0.5}, 'offline', 0)\n"
        "ledger.write({'epoch': 1, 'gap': {'normalization': 0.25}}); ledger.close({'test': {'top1': 0.75}})\n"
    )
    secret = "hunter2hunter2hunter2hunter2hunter2hunt2"
    words = [sys.executable, "-c", code, str(tmp_path), f"--token={secret}"]
    root = str(Path(__file__).parents[2])
    subprocess.run(words, check=True, timeout=120, env=os.environ | {"WANDB_API_KEY": secret, "PYTHONPATH": root})
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"gap/normalization" in everything
    assert b"test/top1" in everything
    assert secret.encode() not in everything


def test_nested_figures_get_flat_names() -> None:
    """As dashboards want them."""
    assert report.flat({"epoch": 1, "gap": {"normalization": 0.5, "by": {"layer": 2}}}) == {
        "epoch": 1,
        "gap/normalization": 0.5,
        "gap/by/layer": 2,
    }


def test_a_ledgers_lines_are_json(tmp_path: Path) -> None:
    """One object a line."""
    Ledger(tmp_path, {}, "off", 0).write(line(1))
    assert json.loads((tmp_path / "ledger.jsonl").read_text()) == line(1)

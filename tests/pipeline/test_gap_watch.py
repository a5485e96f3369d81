"""gap_watch: one warning where a gap opens, in the ledger and on the live page; the training's numbers stay."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import training
from pipeline.config import Config, from_dict
from pipeline.gap_watch import GapWatch, watching
from pipeline.pages import live

CPU = torch.device("cpu")


def settings(data: Path, **norm: Any) -> Config:
    """A small network whose running statistics hardly move."""
    values = {"data": data, "out": Path("mine"), "input": {"frames": 16}, "model": {"width": 0.25}}
    return from_dict(values | {"norm": {"momentum": 0.001, **norm}, "train": {"epochs": 20, "batch_size": 8}})


def trained(config: Config, watched: bool) -> tuple[list[dict[str, Any]], list[torch.Tensor], GapWatch | None]:
    """The records and the weights of a training."""
    clips, splits, state = training.setup(config, CPU)
    watch = watching(config, state.model) if watched else None
    records = list(training.fit(config, clips, splits, state, watch=watch))
    return records, list(state.model.state_dict().values()), watch


@pytest.mark.slow
def test_a_gap_is_reported_once_and_no_number_changes(data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses and weights to the bit; the line of that epoch, the screen and the live page have the warning."""
    config = settings(data_file)
    alone, weights, _ = trained(config, watched=False)
    assert not capsys.readouterr().err
    records, same, watch = trained(config, watched=True)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert [one["train"] for one in records] == [one["train"] for one in alone]
    assert watch is not None
    assert watch.monitor.announcement is not None, str(watch.monitor)
    (line,) = [one for one in records if "warning" in one]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: {line['warning']}"]
    assert "skelnorm doctor mine" in line["warning"]
    assert f"Epoch {line['epoch']}: {line['warning']}" in live.warnings(Path("mine"), records, {})


def test_it_can_be_switched_off(data_file: Path) -> None:
    """And a network without norms has nothing to be watched."""
    config = settings(data_file)
    model = torch.nn.Identity()
    assert watching(config, model) is not None
    assert watching(settings(data_file, kind="none"), model) is None
    off = from_dict({"data": data_file, "out": Path("mine"), "train": {"monitor": False}})
    assert watching(off, model) is None

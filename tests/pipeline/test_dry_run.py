"""--dry-run: what a training would be, without leaving anything."""

import tomllib
from pathlib import Path

from pipeline import dry_run
from pipeline.config import parse, preset
from pipeline.train import main
from tests.conftest import Answer


def test_a_dry_run_shows_settings_sizes_and_times_and_writes_nothing(
    data_file: Path, tmp_path: Path, answer: Answer
) -> None:
    words = ["default", "--data", data_file, "--out", tmp_path / "run", "--frames", 16, "--model.width", 0.25]
    done = answer(main, *words, "--epochs", 3, "--batch-size", 8, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    text, _, rest = done.stdout.partition("\ndata: ")
    assert tomllib.loads(text)["train"]["epochs"] == 3
    for part in ("network: cnn, 0.0", "batches: ", " in 3 epochs", " ms per batch", "memory: about ", "nothing was"):
        assert part in rest


def test_its_settings_are_a_preset_again(data_file: Path, tmp_path: Path) -> None:
    config = parse(["demo", "--data", str(data_file), "--out", str(tmp_path / "run"), "--optim.steps", "0.5", "0.7"])
    (tmp_path / "mine.toml").write_text(dry_run.as_toml(dry_run.as_dict(config)))
    assert parse([str(tmp_path / "mine.toml")]) == config
    assert preset(str(tmp_path / "mine.toml"))["optim"]["steps"] == [0.5, 0.7]

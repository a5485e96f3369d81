"""The short help of a training, the list of presets, and the table of options."""

import re
import sys
from pathlib import Path

import pytest

from pipeline import preset_list, train_help
from pipeline.config import ALIASES, Config, parse
from pipeline.options import read_options
from preprocessing import arguments


def test_the_short_help_fits_and_names_presets_and_main_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options("pipeline.train", ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 75
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert all(f"  {name} " in text for name in preset_list.names())
    for words in (
        "--help-all",
        "--dry-run",
        "cnn, hcn, stgcn, ctrgcn",
        "fold, masked, per_person",
        "default: 40",
    ):
        assert words in text


@pytest.mark.parametrize("words", [["default", "--help"], ["--help-all"]])
def test_the_long_help_names_every_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    text = capsys.readouterr().out
    shown = set(re.findall(r"--[\w.-]+", text))
    assert [name for name in arguments.option_names(Config) if name not in shown] == []


def test_shown_and_short_options_exist() -> None:
    known = arguments.option_names(Config)
    shown = [f"--{name.replace('_', '-')}" for names in train_help.SHOWN.values() for name in names]
    assert set(shown) | set(ALIASES.values()) <= set(known)


def test_presets_are_listed_with_their_first_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["skelnorm presets"])
    assert preset_list.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(preset_list.PRESETS.glob("*.toml")))
    assert lines[0].split() == ["default", *preset_list.title("default").split()]
    assert preset_list.main(["x"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "a.h5"], "name a preset first"),
        (["defalt"], "no preset 'defalt' (did you mean default?)"),
        (["best.toml"], "best.toml does not exist: name a preset (default, demo, "),
    ],
)
def test_a_missing_preset_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
        parse(words)
    assert message in str(caught.value)


def test_data_that_is_a_folder_gets_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: must be an HDF5 file. Build one with"):
        parse(["default", "--data", str(tmp_path), "--out", "run"])


def test_short_names_set_what_they_stand_for(data_file: Path, tmp_path: Path) -> None:
    config = parse(
        ["default", "--data", str(data_file), "--out", str(tmp_path), "--epochs", "3", "--norm", "gn", "--frames=16"]
    )
    assert (config.train.epochs, config.norm.kind, config.input.frames) == (3, "gn", 16)

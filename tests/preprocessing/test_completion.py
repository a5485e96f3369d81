"""Completion, as a real bash does it."""

import shutil
import subprocess

import pytest

from preprocessing import completion
from preprocessing.console import COMMANDS


@pytest.fixture(scope="module")
def script() -> str:
    return completion.bash(completion.table(), completion.presets())


def complete(script: str, *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    line = (
        f"{script}\nCOMP_WORDS=(skelnorm {' '.join(repr(word) for word in words)}); COMP_CWORD={len(words)}; _skelnorm"
    )
    line += '; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-c", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["do"], ["doctor"]),
        (["train", "sbu-h"], ["sbu-hcn"]),
        (["train", "default", "--norm.k"], ["--norm.kind"]),
        (["train", "default", "--norm.persons", "m"], ["masked"]),
        (["doctor", "run", "--split", ""], ["auto", "val", "test"]),
        (["build", "raw", "--unit", "p"], ["px"]),
        (["search", "--wandb", "on"], ["online"]),
        (["search", "--model", "ct"], ["ctrgcn"]),
        (["evaluate", "run"], []),
        (["unknown", "--x"], []),
    ],
)
def test_bash_offers_commands_presets_options_and_choices(words: list[str], offered: list[str], script: str) -> None:
    """And files where it offers nothing."""
    assert complete(script, *words) == offered


def test_every_command_is_offered_and_every_option_of_train(script: str) -> None:
    assert set(complete(script, "")) == {*COMMANDS, "--help", "--version"}
    assert len(complete(script, "train", "default", "--")) > 60


def test_the_script_registers_itself(script: str) -> None:
    done = subprocess.run(["bash", "--norc", "-c", f"{script}\ncomplete -p skelnorm"], capture_output=True, text=True)
    assert done.stdout == "complete -o default -F _skelnorm skelnorm\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str) -> None:
    text = completion.SHELLS[shell]({"train": {"--norm.kind": ["bn", "gn"], "--help": ()}}, ["default"])
    assert "norm.kind" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", "-c", text], capture_output=True).returncode == 0


def test_a_wrong_shell_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.main(["bsh"]) == 2
    assert capsys.readouterr().err == "error: 'bsh' is not a shell: must be bash, zsh, fish; did you mean bash?\n"
    assert completion.main([]) == 2
    assert completion.main(["--help"]) == 0

"""Command lines: each mistake is one line that names the thing, what is allowed or near, and where to read on."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from preprocessing import arguments


@dataclass(frozen=True)
class Inner:
    """Nested options."""

    momentum: float = 0.1
    sync: bool = True


@dataclass(frozen=True)
class Options:
    """Options of a command."""

    file: Annotated[Path, tyro.conf.Positional]
    split: Literal["train", "val", "test"] = "test"
    epochs: int = 1
    norm: Inner = Inner()


def parse(*words: str, **more: object) -> Options:
    return arguments.parse(Options, "pipeline.x", "About.", words, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--epoch", "3"], "--epoch is unknown; did you mean --epochs?"),
        (["a", "--momentum", "3"], "--momentum is unknown; did you mean --norm.momentum?"),
        (["a", "--optim.momentum", "3"], "--optim.momentum is unknown; did you mean --norm.momentum?"),
        (["--hlp"], "--hlp is unknown; did you mean --help?"),
        (["a", "--zzz=1"], "--zzz is unknown."),
        (
            ["a", "--split", "tst"],
            "--split 'tst' is unknown: must be one of 'train', 'val', 'test'; did you",
        ),
        (["a", "--epochs"], "--epochs needs a value."),
        (["a", "b"], "'b' is one word too many."),
        (["a", "--epochs", "many"], "epochs"),
        ([], "file is missing."),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(*words)
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert printed.err.startswith(f"error: {message}" if message != "epochs" else "error: ")
    assert message in printed.err
    assert printed.err.endswith(" python -m pipeline.x --help lists what is allowed.\n")


def test_right_words_are_read_also_with_underscores_negations_and_other_names() -> None:
    assert parse("a", "--norm.no-sync", "--norm.momentum=0.5") == Options(Path("a"), norm=Inner(0.5, False))
    assert parse("a", "--steps", "4", aliases={"--steps": "--epochs"}).epochs == 4
    assert parse("a", "--steps=5", aliases={"--steps": "--epochs"}).epochs == 5


@pytest.mark.parametrize("word", ["-h", "--help", "--help-all"])
def test_help_is_shown(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(word)
    assert end.value.code == 0
    assert "About." in capsys.readouterr().out


def test_messages_name_the_program_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arguments.next_command("pipeline.doctor", Path("a b")) == "next: python -m pipeline.doctor 'a b'"
    monkeypatch.setattr(sys, "argv", ["skelnorm train"])
    assert arguments.program_name("pipeline.train") == "skelnorm train"
    assert arguments.next_command("pipeline.doctor", "run", "--fix") == "next: skelnorm doctor run --fix"


def test_a_docstring_is_read_without_importing_the_module() -> None:
    sys.modules.pop("this", None)
    assert arguments.docstring("preprocessing.arguments") == (arguments.__doc__ or "").strip()
    assert "Options" not in arguments.docstring("this")
    assert "this" not in sys.modules

"""settings.py: allowed values are part of a field's type; one check, one conversion, one help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tyro

from pipeline import settings
from pipeline.settings import Choice, Range


@dataclass(frozen=True)
class Part:
    """A section; its registry is defined below it."""

    name: Annotated[str, Choice(REGISTRY)] = "b"
    stream: Annotated[str, Choice(REGISTRY, joined="+")] = "a"
    share: Annotated[float, Range(gt=0, le=1, why="0 means nothing")] = 0.5
    below: Annotated[float, Range(ge=0, lt=1)] = 0.0
    count: Annotated[int, Range(ge=2)] = 3
    rate: Annotated[float, Range(gt=0)] = 1e-3
    mode: Literal["on", "off"] = "on"
    flag: bool = False
    steps: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        settings.check(self, "part.")


@dataclass(frozen=True)
class Whole:
    """A section inside another dataclass."""

    path: Path
    part: Part = field(default_factory=Part)


REGISTRY = {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "c"}, "part.name 'c' is unknown; choose one of a, b"),
        ({"name": 5}, "part.name 5 must be a text"),
        ({"stream": "a+c"}, "part.stream 'c' is unknown; choose one of a, b, or join several: a+b"),
        ({"share": 0.0}, "part.share 0.0 is outside (0, 1]; 0 means nothing"),
        ({"share": 2}, "part.share 2 is outside (0, 1]; 0 means nothing"),
        ({"below": -0.5}, "part.below -0.5 is outside [0, 1)"),
        ({"below": 1.0}, "part.below 1.0 is outside [0, 1)"),
        ({"count": 1}, "part.count 1 is too small: must be at least 2"),
        ({"count": 2.0}, "part.count 2.0 must be a whole number"),
        ({"count": True}, "part.count True must be a whole number"),
        ({"rate": 0}, "part.rate 0 is too small: must be above 0"),
        ({"rate": float("nan")}, "part.rate nan must be finite"),
        ({"rate": True}, "part.rate True must be a number"),
        ({"mode": "auto"}, "part.mode 'auto' is unknown; choose one of on, off"),
        ({"flag": 1}, "part.flag 1 must be true or false"),
        ({"steps": 0.5}, "part.steps 0.5 must be a list, each a number"),
        ({"steps": ("x",)}, "part.steps 'x' must be a number"),
        ({"steps": (1.0, float("inf"))}, "part.steps inf must be finite"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(values: dict[str, Any], message: str) -> None:
    """By the constructor and by `build` in the same words."""
    for make in (lambda: Part(**values), lambda: settings.build(Whole, {"path": "x", "part": values})):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            make()
        assert str(caught.value) == message


def test_values_at_the_bounds_are_allowed() -> None:
    """`ge` and `le` include their bounds; a whole number serves as a number; joined names are each checked."""
    part = Part(share=1, below=0.0, count=2, rate=1, stream="b+a")
    assert (part.share, part.below, part.count, part.rate, part.stream) == (1, 0.0, 2, 1, "b+a")


def test_plain_values_become_settings() -> None:
    """Texts become paths and lists tuples; an unknown key is named with the nearest known one."""
    whole = settings.build(Whole, {"path": "x/y", "part": {"steps": [1, 0.5], "name": "a"}})
    assert whole == Whole(Path("x/y"), Part(steps=(1, 0.5), name="a"))
    for values, message in (
        ({"prt": {}}, "unknown setting prt; did you mean part?"),
        ({"part": {"shre": 1}}, "unknown setting part.shre; did you mean part.share?"),
        ({"part": {"zzz": 1}}, "unknown setting part.zzz; known: part.name, part.stream"),
        ({"part": "a"}, "part 'a' must be a table of settings: name, stream"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
            settings.build(Whole, {"path": "x"} | values)
        assert str(caught.value).startswith(message)


def test_the_help_shows_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    """Choices in braces, ranges beside the type, and the default."""
    with pytest.raises(SystemExit):
        tyro.cli(Whole, args=["--help"], registry=settings.command_line())
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for expected in (
        "--part.name {a,b}", "--part.stream {a,b}[+...]", "--part.share FLOAT in (0, 1]",
        "--part.below FLOAT in [0, 1)", "--part.count INT >= 2", "--part.rate FLOAT > 0", "--part.mode {on,off}",
        "(default: b)",
    ):  # fmt: skip
        assert expected in shown


def test_the_command_line_sets_every_kind_of_field(capsys: pytest.CaptureFixture[str]) -> None:
    """As without our markers; tyro rejects a name outside the registry and lists the known ones."""
    words = ["--path", "p", "--part.name", "a", "--part.stream", "a+b", "--part.share", "1", "--part.count", "4"]
    whole = tyro.cli(Whole, args=words, default=Whole(Path("d")), registry=settings.command_line())
    assert whole == Whole(Path("p"), Part("a", "a+b", 1.0, count=4))
    assert isinstance(whole.part.share, float)
    with pytest.raises(SystemExit):
        tyro.cli(Whole, args=["--path", "p", "--part.name", "c"], registry=settings.command_line())
    assert "a" in capsys.readouterr().err

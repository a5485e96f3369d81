"""Command lines: read them into dataclasses, and report a mistake in one line. Commands parse through this.

    @dataclass(frozen=True)
    class Options:
        file: Annotated[Path, tyro.conf.Positional]
        \"\"\"The HDF5 file.\"\"\"

    options = arguments.parse(Options, "preprocessing.verify", __doc__)

A module with an Options class imports no torch, so that `--help` and a mistyped option are answered at once. A command
whose work needs torch reads its arguments a first time before it imports that (`early`).
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro

from preprocessing import exits

Options = TypeVar("Options")
# What Python says of a text that is not a whole number, or not a number.
NOT_A_NUMBER = re.compile(r"invalid literal for int\(\) with base 10: (.*)|could not convert string to float: (.*)")
HELP, HELP_ALL = ("-h", "--help"), "--help-all"


def parse(
    cls: Callable[..., Options],
    module: str,
    description: str | None,
    words: Sequence[str] | None = None,
    *,
    program: str = "",
    aliases: Mapping[str, str] | None = None,
    **more: Any,
) -> Options:
    """Return the options of a command line; a mistake ends the process with one line and exit code 2.

    Args:
        cls: Dataclass of the options.
        module: Module of the command, as `python -m` takes it.
        description: Text of `--help` above the options.
        words: Words of the command line; None: those of this process.
        program: Name of the program in messages; empty: as it was started.
        aliases: Other name of an option -> its name.
        **more: Further arguments of `tyro.cli`.
    """
    program = program or program_name(module)
    renames = {HELP_ALL: HELP[1], **(aliases or {})}
    given = [renamed(word, renames) for word in (sys.argv[1:] if words is None else words)]
    names = [*option_names(cls), *renames, *HELP]
    if mistake := unknown_option(given, names):
        raise SystemExit(_report(program, mistake))
    with _one_line(program):
        return tyro.cli(cls, prog=program, description=description, args=given, **more)  # type: ignore[no-any-return]


def unknown_option(words: Iterable[str], names: Sequence[str]) -> str:
    """Return what is wrong with the first option that is not among the names; empty if all are."""
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if not name.startswith("--") or name in names or name.replace("--no-", "--").replace(".no-", ".") in names:
            continue
        last = {known.rpartition(".")[2].lstrip("-"): known for known in reversed(names)}
        own = last.get(name.rpartition(".")[2].lstrip("-"))  # --momentum or --optim.momentum for --norm.momentum
        return f"{name} is unknown{f'; did you mean {own}?' if own else suggestion(name, names) or '.'}"
    return ""


def program_name(module: str) -> str:
    """Return how this command was started: `skelnorm NAME`, or `python -m MODULE`."""
    return sys.argv[0] if sys.argv[0].startswith("skelnorm ") else f"python -m {module}"


def next_command(module: str, *words: object) -> str:
    """Return the line that names the command to type next, in the form in which this one was started."""
    name = module.rpartition(".")[2]
    program = f"skelnorm {name}" if sys.argv[0].startswith("skelnorm ") else f"python -m {module}"
    return f"next: {program} {shlex.join(map(str, words))}".rstrip()


def suggest(module: str, *words: object) -> None:
    """Print the command to type next to stderr: standard output has results alone."""
    print(next_command(module, *words), file=sys.stderr, flush=True)


def renamed(word: str, aliases: Mapping[str, str]) -> str:
    """Return a word of a command line with the present name of an option that has another one."""
    name, equals, value = word.partition("=")
    return aliases.get(name.replace("_", "-"), name) + equals + value


def docstring(module: str) -> str:
    """Return the docstring of a module without importing it."""
    found = importlib.util.find_spec(module)
    assert found is not None
    return ast.get_docstring(ast.parse(Path(str(found.origin)).read_text(encoding="utf-8"))) or ""


def option_names(cls: Any, prefix: str = "--") -> list[str]:
    """Return the names of all options of a dataclass, `--section.key` for those of a nested one."""
    if not dataclasses.is_dataclass(cls):
        return []
    hints, names = get_type_hints(cls, include_extras=True), []
    for field in dataclasses.fields(cls):
        name, kind = field.name.replace("_", "-"), hints[field.name]
        if dataclasses.is_dataclass(kind):
            names += option_names(kind, f"{prefix}{name}.")
        elif tyro.conf.Positional not in _markers(kind):
            names.append(prefix + name)
    return names


def _markers(kind: Any) -> tuple[Any, ...]:
    positional = getattr(tyro.conf.Positional[int], "__metadata__", ())
    return (tyro.conf.Positional,) if set(positional) & set(getattr(kind, "__metadata__", ())) else ()


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _report(program: str, message: str) -> int:
    return exits.report(ValueError(f"{message} {program} --help lists what is allowed."))


@contextlib.contextmanager
def _one_line(program: str) -> Iterator[None]:
    """Report what tyro rejects in one line. Its events are private: without them its own boxes are shown."""
    try:
        from tyro import _errors as events
    except ImportError:
        yield
        return

    def report(event: Any) -> None:
        if type(event).__name__ == "InstantiationFailure" and event.argument is None:
            raise SystemExit(exits.report(ValueError(event.message)))  # of the class itself, with its own remedy
        if message := _message(event):
            raise SystemExit(_report(program, message))

    with events.on_parse_error(report):
        yield


def _message(event: Any) -> str:
    """Return what is wrong with a command line; empty for a kind of mistake that is not known."""
    kind = type(event).__name__
    if kind == "UnrecognizedArgs":
        return f"{event.tokens[0]!r} is one word too many."
    if kind == "InvalidChoice":
        known = list(event.choices)
        return (
            f"{event.argument.display_name()} {event.value!r} is unknown: must be one of {', '.join(map(repr, known))}"
            f"{suggestion(event.value, known) or '.'}"
        )
    if kind == "MissingArgs":
        missing = [one.arg.display_name() for one in event.missing_arguments]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    if kind == "BadValue" and event.reason == "too_few_values":
        positional = event.argument.is_positional()
        return f"{event.argument.display_name()} {'is missing' if positional else 'needs a value'}."
    if kind == "InstantiationFailure":
        name = event.argument.display_name() if event.argument is not None else ""
        found = NOT_A_NUMBER.search(event.message)
        if found:
            return f"{name} {found[1] or found[2]} is not a {'whole ' if found[1] else ''}number."
        return " ".join(f"{name} {event.message}".split()).rstrip(".") + "."
    return ""

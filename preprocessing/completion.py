"""Shell completion of `skelnorm`: commands, options, their choices, and the presets of train.

    source <(skelnorm completion bash)                                    # for this shell; into ~/.bashrc for all
    skelnorm completion zsh > ~/.zfunc/_skelnorm_setup && source ~/.zfunc/_skelnorm_setup
    skelnorm completion fish > ~/.config/fish/completions/skelnorm.fish

The script is complete in itself: no key press starts Python. Write it again after an update.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from preprocessing import arguments, exits, startup

Choices = Mapping[str, Sequence[str]]  # option -> its allowed values; none: any


def choices_of(cls: Any, prefix: str = "--") -> dict[str, Sequence[str]]:
    """Return the options of a dataclass with their allowed values."""
    found: dict[str, Sequence[str]] = dict.fromkeys(arguments.option_names(cls, prefix), ())
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        name, kind = f"{prefix}{field.name.replace('_', '-')}", hints[field.name]
        if dataclasses.is_dataclass(kind):
            found |= choices_of(kind, f"{name}.")
        elif name in found:
            found[name] = tuple(_values(kind))
    return found


def _values(kind: Any) -> Iterator[str]:
    """Yield the allowed values of a field's type."""
    if get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) is Annotated:
        for marker in get_args(kind)[1:]:
            yield from map(str, getattr(marker, "names", ()))
        yield from _values(get_args(kind)[0])


def table() -> dict[str, Choices]:
    """Return the options of every command that has a dataclass of options."""
    from preprocessing.console import COMMANDS

    found: dict[str, Choices] = {}
    for name, command in COMMANDS.items():
        module = command.module.removesuffix(".__main__")
        home = importlib.import_module(command.reader or command.module)
        cls = home.options_class(module) if command.reader else _options_class(home, name)
        found[name] = choices_of(cls) | {"--help": ()} if cls is not None else {"--help": ()}
    return found


def _options_class(module: Any, name: str) -> Any:
    return getattr(module, "Options", None) or getattr(module, name.capitalize(), None)


def presets() -> list[str]:
    """Return the first words of train."""
    names: list[str] = importlib.import_module("pipeline.preset_list").names()
    return names


def bash(commands: Mapping[str, Choices], first: Sequence[str]) -> str:
    """Return the script for bash.

    Args:
        commands: Options of each command, with their allowed values.
        first: Allowed first words of train.
    """
    values = [
        f'        "{name} {option}") words="{" ".join(allowed)}" ;;'
        for name, options in commands.items()
        for option, allowed in options.items()
        if allowed
    ]
    listed = [f'        {name}) words="{" ".join(options)}" ;;' for name, options in commands.items()]
    return "\n".join(
        [
            "_skelnorm() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" words=""',
            '    case "$command ${COMP_WORDS[COMP_CWORD-1]}" in',
            *values,
            "    esac",
            f'    if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join([*commands, "--help", "--version"])}"',
            '    elif [ -n "$words" ]; then :',
            '    elif [ "${current#-}" != "$current" ]; then',
            '        case "$command" in',
            *("    " + line for line in listed),
            "        esac",
            f'    elif [ "$command $COMP_CWORD" = "train 2" ]; then words="{" ".join(first)}"',
            "    fi",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _skelnorm skelnorm",
        ]
    )


def zsh(commands: Mapping[str, Choices], first: Sequence[str]) -> str:
    """Return the script for zsh, which runs that for bash; arguments as of `bash`."""
    return f"autoload -Uz compinit bashcompinit\ncompinit\nbashcompinit\n{bash(commands, first)}"


def fish(commands: Mapping[str, Choices], first: Sequence[str]) -> str:
    """Return the script for fish; arguments as of `bash`."""
    lines = [f"complete -c skelnorm -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    lines.append(f"complete -c skelnorm -n '__fish_seen_subcommand_from train' -a '{' '.join(first)}'")
    for name, options in commands.items():
        for option, allowed in options.items():
            values = f" -x -a '{' '.join(allowed)}'" if allowed else ""
            lines.append(f"complete -c skelnorm -n '__fish_seen_subcommand_from {name}' -l {option[2:]}{values}")
    return "\n".join(lines)


SHELLS: dict[str, Callable[[Mapping[str, Choices], Sequence[str]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def main(words: Sequence[str] | None = None) -> int:
    """Run `skelnorm completion SHELL`; return the exit code."""
    given = list(sys.argv[1:] if words is None else words)
    if {"-h", "--help", "--help-all"} & set(given):
        print(f"usage: skelnorm completion {'|'.join(SHELLS)}\n\n{__doc__}")
        return 0
    if len(given) != 1 or given[0] not in SHELLS:
        named = f"{' '.join(given)!r} is not a shell" if given else "name a shell"
        known = ", ".join(SHELLS)
        return exits.report(
            ValueError(f"{named}: must be {known}{arguments.suggestion(' '.join(given), SHELLS) or '.'}")
        )
    print(SHELLS[given[0]](table(), presets()))
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))

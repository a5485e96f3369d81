"""List the presets of pipeline.train, one line each.

    skelnorm presets

A preset is a TOML file in pipeline/presets; a TOML file of your own works in the same way: skelnorm train mine.toml.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

PRESETS = Path(__file__).parent / "presets"


def names() -> list[str]:
    """Return the names of the presets: those for any data first, then by data set."""
    return sorted(
        (path.stem for path in PRESETS.glob("*.toml")), key=lambda name: (name not in ("default", "demo"), name)
    )


def title(name: str) -> str:
    """Return the first line of a preset's document."""
    with (PRESETS / f"{name}.toml").open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def table(width: int = 0) -> str:
    """Return one line per preset, cut to `width` characters where that is not 0."""
    column = max(len(name) for name in names())
    lines = [f"  {name:<{column}}  {title(name)}" for name in names()]
    return "\n".join(line if not width or len(line) <= width else f"{line[: width - 3]}..." for line in lines)


def main(words: Sequence[str] | None = None) -> int:
    """Run `skelnorm presets`; return the exit code."""
    from preprocessing import exits

    for word in sys.argv[1:] if words is None else words:
        if word not in ("-h", "--help"):
            return exits.report(ValueError(f"{word!r} is one word too many: skelnorm presets takes no arguments."))
        print(__doc__)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

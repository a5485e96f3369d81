"""Write pipeline/SETTINGS.md from the dataclasses of the settings and the presets.

python tests/site/settings.py > pipeline/SETTINGS.md
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pipeline import preset_list
from pipeline.config import Config
from pipeline.settings import Choice, Range, declared, documented

HEAD = """\
# Settings of a training

Generated from the dataclasses: `python tests/site/settings.py > pipeline/SETTINGS.md`.

On the command line a setting is `--section.name VALUE` (`--norm.kind gn`), in a TOML file a key of a table:

```toml
extends = "default"

[norm]
kind = "gn"
```

`python -m pipeline.train mine.toml --data clips.h5 --out runs/mine` trains with such a file.
"""


def page() -> str:
    """Return the page: the presets, then one table per section."""
    parts = [HEAD, presets(), section("Run", "", Config)]
    for field in dataclasses.fields(Config):
        kind = declared(Config)[field.name]
        if dataclasses.is_dataclass(kind):
            parts.append(section(f"`{field.name}`", f"{field.name}.", kind))
    return "\n".join(parts)


def presets() -> str:
    """Return the table of presets: name, and the first line of its file."""
    rows = [f"| `{name}` | {preset_list.title(name)} |" for name in preset_list.names()]
    return "\n".join(["## Presets", "", "| preset | for |", "|---|---|", *rows, ""])


def section(title: str, prefix: str, cls: Any) -> str:
    """Return one table: option, allowed values, default and meaning of each field."""
    head = [
        f"## {title}",
        "",
        f"{first_sentence(cls)}",
        "",
        "| option | values | default | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows(prefix, cls), ""])


def rows(prefix: str, cls: Any) -> Iterator[str]:
    """Yield the rows of a section's table."""
    meaning = documented(cls)
    for field in dataclasses.fields(cls):
        kind = declared(cls)[field.name]
        if not dataclasses.is_dataclass(kind):
            cells = (f"`--{prefix}{field.name.replace('_', '-')}`", values(kind), default(field), meaning[field.name])
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values(kind: Any) -> str:
    """Return the allowed values of a field in words."""
    kind, *markers = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    for marker in markers:
        if isinstance(marker, Choice):
            several = f"; several joined by `{marker.joined}`" if marker.joined else ""
            return ", ".join(f"`{name}`" for name in marker.names) + several
        if isinstance(marker, Range):
            return f"{'whole number' if kind is int else 'number'} {marker}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(kind))
    words = {bool: "switch", int: "whole number", float: "number", str: "text", Path: "path"}
    return words.get(kind, "path" if Path in get_args(kind) else "list")


def default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as the command line writes it; empty if it is required or off."""
    if field.default is dataclasses.MISSING:
        made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        return f"`{made}`" if made else "required"
    if field.default is None or field.default is False or field.default == ():
        return ""
    return "on" if field.default is True else f"`{field.default}`"


def first_sentence(cls: Any) -> str:
    """Return the first sentence of a class's docstring."""
    return re.split(r"(?<=\.)\s", " ".join((inspect.getdoc(cls) or "").split()))[0]


if __name__ == "__main__":
    print(page(), end="")

"""Write the table of layers in pipeline/norms/README.md from the registry: python tests/site/norms.py."""

import re
from pathlib import Path

from pipeline.norms import NORMS
from pipeline.norms.kind import Kind

DOCUMENT = Path(__file__).parents[2] / "pipeline/norms/README.md"
PLACE = re.compile(r"(<!-- kinds: .*? -->\n).*?(<!-- end -->)", re.DOTALL)


def table() -> str:
    """Return one row per kind: its layer, what its statistics cover, and the settings that act on it."""
    head = ["| kind | layer | batch statistics | running statistics | settings |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row(name, kind) for name, kind in NORMS.items()), ""])


def row(name: str, kind: Kind) -> str:
    """Return the row of one kind."""
    settings = ", ".join(f"`{setting.replace('_', '-')}`" for setting in kind.settings)
    marks = ("yes" if kind.batch_statistics else "", "yes" if kind.running_statistics else "")
    return f"| `{name}` | {kind.title} | {marks[0]} | {marks[1]} | {settings} |"


def filled(text: str) -> str:
    """Return the document with the present table in its place."""
    return PLACE.sub(lambda match: match[1] + table() + match[2], text)


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text()))

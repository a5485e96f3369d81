"""Documents: links lead somewhere, and the files and commands that they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "demo" for part in path.parts[len(ROOT.parts) :])
)
LINK = re.compile(r"\]\(([^)#]+)\)")
FILE = re.compile(r"`((?:preprocessing|pipeline|tuning|tests|docker)/[\w/.-]*)")
COMMAND = re.compile(r"python -m ((?:preprocessing|pipeline|tuning)\.[\w.]+)")


def missing(text: str, folder: Path) -> list[str]:
    """Links, file names and commands in a document's text that lead nowhere."""
    links = [link for link in LINK.findall(text) if "://" not in link and not (folder / link).exists()]
    files = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    modules = {name.replace(".", "/") for name in COMMAND.findall(text)}
    commands = [
        name for name in modules if not (ROOT / f"{name}.py").is_file() and not (ROOT / name / "__main__.py").is_file()
    ]
    return links + files + commands


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_what_exists(path: Path) -> None:
    """Every relative link, `package/file.py` and `python -m package.command`."""
    assert missing(path.read_text(), path.parent) == []


def test_a_dead_link_file_or_command_is_found() -> None:
    """Negative control."""
    text = "[a](nowhere.md) `pipeline/nothing.py` python -m pipeline.nothing"
    assert missing(text, ROOT) == ["nowhere.md", "pipeline/nothing.py", "pipeline/nothing"]

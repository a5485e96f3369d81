"""Sphinx's settings of `make html`: the documents stay in their folders, and this file orders them."""

from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]

# Sphinx reads these settings by their names.
project = "skelnorm"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
html_theme = "furo"
html_title = "skelnorm"
html_show_copyright = False
html_show_sourcelink = False
html_extra_path = ["index.html"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False

# Part of the navigation -> documents, without their ending.
NAVIGATION = {
    "Use": [
        "preprocessing/README",
        "preprocessing/TUTORIAL",
        "pipeline/README",
        "pipeline/SETTINGS",
        "pipeline/normdoctor/README",
        "pipeline/norms/README",
        "tuning/README",
        "docker/README",
        "pipeline/TROUBLESHOOTING",
        "tests/site/api",
    ],
    "Results": [
        "tests/bench/results/README",
        *sorted(
            str(path.relative_to(ROOT).with_suffix(""))
            for path in (ROOT / "tests/bench/results").glob("*.md")
            if path.stem != "README"
        ),
    ],
    "Project": ["CONTRIBUTING", "CHANGELOG"],
}
include_patterns = ["README.md", *(f"{name}.md" for names in NAVIGATION.values() for name in names)]


def navigation() -> str:
    """Return the tables of contents that the README gets, hidden in its text and shown in the side bar."""
    blocks = []
    for caption, names in NAVIGATION.items():
        present = [name for name in names if (ROOT / f"{name}.md").is_file()]
        blocks.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *present, "```"]))
    return "\n\n" + "\n\n".join(blocks) + "\n"


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the navigation to the first document; the file on disk is for readers of the repository."""
    if name == root_doc:
        source[0] += navigation()


def mark_code(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Make the indented examples of a docstring code blocks; reStructuredText takes them for quotations."""
    marked: list[str] = []
    for line in lines:
        opens = line.startswith("    ") and not (marked or [""])[-1].strip()
        if opens and not next((before for before in reversed(marked) if before.strip()), "").startswith(" "):
            marked += [".. code-block:: python", ""]
        marked.append(line)
    lines[:] = marked


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon reads the sections

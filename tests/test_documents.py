"""Documents: links lead somewhere, and the files and commands that they name exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.norms import NormConfig
from preprocessing.build import Options
from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.layouts import LAYOUTS
from preprocessing.sources import SOURCES

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


def test_the_table_of_formats_has_every_format_and_layout_and_its_examples_name_options_that_exist() -> None:
    text = (ROOT / "preprocessing" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| `build (.*)` \|$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SOURCES)
    options = {f"--{field.name}" for field in fields(Options)}
    for _, example in rows:
        assert set(re.findall(r"--\w+", example)) <= options
    assert all(f"`{name}`" in text for name in LAYOUTS)


def test_the_example_of_an_array_file_builds_and_its_skeleton_is_a_network_s(tmp_path: Path) -> None:
    """The default network takes its 5 joints."""
    text = (ROOT / "preprocessing" / "README.md").read_text()
    code = text[text.index("    import numpy as np") : text.index("    python -m preprocessing.build mine.npz")]
    code = "\n".join(line[4:] for line in code.splitlines()).replace("mine.npz", str(tmp_path / "mine.npz"))
    exec(compile(code, "README.md", "exec"), {})
    assert build([str(tmp_path / "mine.npz"), "--out", str(tmp_path / "mine.h5")]) == 0
    file = open_file(tmp_path / "mine.h5")
    bones = tuple((int(parent), int(child)) for parent, child in file.bones)
    for model in MODELS:
        network = build_model(ModelConfig(model, width=0.25), NormConfig(), 64, len(file.joint_names), 2, bones).eval()
        x, present = torch.zeros(1, 3, 64, 5, 2), torch.ones(1, 2, 64, dtype=torch.bool)
        assert network(x, present).shape == (1, 2)

"""Documents: links lead somewhere, what they name exists, generated parts are current, and examples run."""

import ast
import csv
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.norms import NormConfig
from preprocessing.build import main as build
from preprocessing.console import COMMANDS
from preprocessing.hdf5 import open_file
from preprocessing.layouts import LAYOUTS
from preprocessing.options import Build
from preprocessing.sources import SOURCES
from preprocessing.synthetic import main as synthetic
from tests.site import causes, effects, picture, settings
from tests.site import norms as norms_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("demo", "releases") for part in path.parts[len(ROOT.parts) :])
)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
FILE = re.compile(r"`((?:preprocessing|pipeline|tuning|tests|docker)/[\w/.-]*)")
COMMAND = re.compile(r"python -m ((?:preprocessing|pipeline|tuning)\.[\w.]+)")


def missing(text: str, folder: Path) -> list[str]:
    """Links, anchors, file names and commands in a document's text that lead nowhere."""
    links = [link for link, _ in LINK.findall(text) if "://" not in link and not (folder / link).exists()]
    links += [
        f"{link}#{anchor}"
        for link, anchor in LINK.findall(text)
        if anchor and "://" not in link and anchor not in anchors((folder / link).read_text() if link else text)
    ]
    files = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    modules = {name.replace(".", "/") for name in COMMAND.findall(text)}
    commands = [
        name for name in modules if not (ROOT / f"{name}.py").is_file() and not (ROOT / name / "__main__.py").is_file()
    ]
    return links + files + commands


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_only_what_exists(path: Path) -> None:
    """Every relative link, `package/file.py` and `python -m package.command`."""
    assert missing(path.read_text(), path.parent) == []


def test_a_dead_link_file_or_command_is_found() -> None:
    """Negative control."""
    text = "# A\n[a](nowhere.md) [b](#b) [c](README.md#c) [d](#a) `pipeline/nothing.py` python -m pipeline.nothing"
    assert missing(text, ROOT) == ["nowhere.md", "#b", "README.md#c", "pipeline/nothing.py", "pipeline/nothing"]


def test_the_table_of_formats_has_every_format_and_layout_and_its_examples_name_options_that_exist() -> None:
    text = (ROOT / "preprocessing" / "README.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| .* \| `build (.*)` \|$", text, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(SOURCES)
    options = {f"--{field.name}" for field in fields(Build)}
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


def picture_of(name: str, text: str) -> str:
    """The present picture of a cause."""
    return causes.picture(name)


@pytest.mark.parametrize(
    ("path", "now"),
    [
        ("pipeline/SETTINGS.md", lambda text: settings.page()),
        ("pipeline/norms/README.md", norms_table.filled),
        ("pipeline/normdoctor/README.md", causes.filled),
        *((f"pipeline/normdoctor/pictures/{name}.svg", partial(picture_of, name)) for name in CHECKS | REST),
        ("pipeline/question.svg", lambda text: picture.picture(picture.figures(picture.TABLE.read_text()))),
        ("pipeline/norms/effects.svg", lambda text: effects.picture(*effects.effects(effects.TABLE.read_text()))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_generated_part_is_what_its_generator_writes(path: str, now) -> None:
    """If not: python tests/site/settings.py > pipeline/SETTINGS.md, and the other generators beside it."""
    text = (ROOT / path).read_text()
    assert text == now(text)


def texts_of_the_program() -> Iterator[str]:
    """Every text of the source, with ... in the places of values."""
    for package in ("preprocessing", "pipeline", "tuning"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)


def test_each_message_of_the_troubleshooting_page_is_one_of_the_program() -> None:
    """Its parts between values occur in order in one text of the source."""
    page = (ROOT / "pipeline" / "TROUBLESHOOTING.md").read_text()
    messages = [cell for cell in re.findall(r"^\| `([^`]*)` \|", page, re.MULTILINE) if "…" in cell]
    assert len(messages) >= 30
    program = list(texts_of_the_program())
    lost = [message for message in messages if not any(says(text, message) for text in program)]
    assert lost == []
    assert not any(says(text, "… is not a message of this program") for text in program)  # negative control


def says(text: str, message: str) -> bool:
    """Return whether the parts of the message between its values occur in the text, in order."""
    return re.search(".*".join(re.escape(part.strip()) for part in message.split("…")), text, re.DOTALL) is not None


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of a document in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_s_snippet_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """And the doctor finds the statistics of a network that was never trained."""
    (snippet,) = blocks(ROOT / "README.md", "python")
    exec(compile(snippet, "README.md", "exec"), {})
    assert "A" in capsys.readouterr().out


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `skelnorm NAME ...` and `python -m PACKAGE.NAME ...` line of a document's code."""
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"(?:^ *|`)((?:skelnorm|python -m) [a-z][^`\n]*)", joined, re.MULTILINE):
        words = shlex.split(line, comments=True)
        module = {command.module: name for name, command in COMMANDS.items()}
        if words[0] == "python":
            name = module.get(words[2]) or module.get(f"{words[2]}.__main__")
            words = ["skelnorm", name, *words[3:]] if name else []
        if words and words[1] in COMMANDS:
            yield words


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `skelnorm ...` from this source in a folder of its own."""
    program = [sys.executable, "-c", "import sys; from preprocessing.console import main; sys.exit(main())", *words[1:]]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


def test_commands_are_found_in_blocks_and_in_tables() -> None:
    text = (
        "    python -m pipeline.train demo --out a \\\n  --nproc 2  # two\n| `skelnorm doctor RUN --fix` |\nskelnorm is"
    )
    assert list(commands(text)) == [
        ["skelnorm", "train", "demo", "--out", "a", "--nproc", "2"],
        ["skelnorm", "doctor", "RUN", "--fix"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_documents_give_a_command_only_options_that_it_has(name: str, tmp_path: Path) -> None:
    used = {
        word.split("=")[0]
        for path in DOCUMENTS
        for words in commands(path.read_text())
        if words[1] == name
        for word in words[2:]
        if word.startswith("--")
    }
    long = run(["skelnorm", name, "--help-all"], tmp_path)
    text = long.stdout if long.returncode == 0 else run(["skelnorm", name, "--help"], tmp_path).stdout
    known = set(re.findall(r"--[\w.-]+", text))
    assert used - {"--help", "--help-all"} <= known


@pytest.mark.slow
def test_the_readme_s_way_from_a_zip_to_a_verdict_runs_as_it_stands(tmp_path: Path) -> None:
    """On made-up recordings in a zip of the name that NTU's own has; with fewer clips no remedy is proven."""
    (block,) = blocks(ROOT / "README.md", "sh")
    assert synthetic([str(tmp_path / "raw"), "--clips", "360"]) == 0
    recordings = sorted((tmp_path / "raw").glob("*.skeleton"))
    with zipfile.ZipFile(tmp_path / "nturgbd_skeletons_s001_to_s017.zip", "w") as archive:
        for path in recordings:
            archive.write(path, f"nturgb+d_skeletons/{path.name}")
    shutil.copy(recordings[0], tmp_path / "S001C001P001R001A023.skeleton")
    for words in commands(block):
        done = run(words, tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert (tmp_path / "doctor.html").stat().st_size > 0


@pytest.mark.slow
def test_the_tutorial_runs_from_landmarks_to_a_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command and snippet but the one of MediaPipe, in an empty folder; the three actions come out in order."""
    page = ROOT / "preprocessing" / "TUTORIAL.md"
    monkeypatch.chdir(tmp_path)
    _, made_up, live = blocks(page, "python")
    names: dict[str, object] = {}
    exec(compile(made_up, "TUTORIAL.md", "exec"), names)
    for block in blocks(page, "sh"):
        for words in commands(block):
            done = run(words, tmp_path)
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    with (tmp_path / "actions.csv").open() as file:
        found = [row["label"] for row in csv.DictReader(file)]
    assert [label for label in found if label in ("wave", "squat", "lean")] == ["wave", "squat", "lean"]
    assert found.count("none of these") >= 2
    assert "wave" in (tmp_path / "actions.html").read_text()
    exec(compile(live, "TUTORIAL.md", "exec"), names)
    assert "wave" in capsys.readouterr().out


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """`make html`: all documents, their navigation and the API from the docstrings."""
    pytest.importorskip("sphinx")
    words = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html", "--conf-dir", "tests/site", "."]
    done = subprocess.run(
        [sys.executable, *words, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "searchindex.js").read_text()
    assert all(f'"{path.relative_to(ROOT).with_suffix("")}"' in index for path in DOCUMENTS)

"""The wheel and the sdist: metadata, types, and commands from a folder with packages of the same names."""

import ast
import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines()]


def test_groups_and_extras_agree_and_pull_only_what_they_need() -> None:
    """The dependency groups of PEP 735 are those of the extra `dev`, by purpose."""
    groups, extras = PROJECT["dependency-groups"], PROJECT["project"]["optional-dependencies"]
    named = {line for group in ("test", "lint") for line in groups[group]}
    assert named | {line for line in extras["dev"] if line.startswith("triton")} == set(extras["dev"])
    assert groups["docs"] == extras["docs"]
    names = [re.split(r"[^\w-]", line)[0] for lines in extras.values() for line in lines]
    assert not set(names) & {re.split(r"[^\w-]", line)[0] for line in PROJECT["project"]["dependencies"]}


OPTIONAL = {"lightning", "onnxruntime", "onnxscript", "pytorch_lightning", "transformers", "triton"}  # where they are


@pytest.mark.parametrize(
    ("folders", "lists", "own"),
    [
        (("preprocessing", "pipeline", "tuning"), (PROJECT["project"]["dependencies"],), OPTIONAL),
        (("docker",), tuple(PROJECT["dependency-groups"][name] for name in ("lint",)), set()),
    ],
)
def test_every_package_that_is_imported_is_named(
    folders: tuple[str, ...], lists: tuple[list[str]], own: set[str]
) -> None:
    """Not only because another one needs it; each is pinned in the constraints."""
    named = {re.split(r"[^\w-]", line)[0].lower() for lines in lists for line in lines}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    owners = importlib.metadata.packages_distributions()
    imported: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"preprocessing", "pipeline", "tuning", "docker"} - own
    needed = {owners[name][0].lower() for name in foreign}
    assert needed
    assert needed <= named, needed - named
    assert needed <= pinned, needed - pinned


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_no_install_line_names_a_package_that_a_stranger_could_own() -> None:
    """Neither skelnorm nor normdoctor is on an index: they are installed from a folder."""
    lines = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked("*.py", "*.md", "*.toml", "*.yaml", "Makefile", "docker/*")
        if path.suffix not in (".png",) and path != Path(__file__)
        for line in path.read_text(errors="replace").splitlines()
        if re.search(r"pip install [^#]*(?<![\w./])(?:skelnorm|normdoctor)", line)
    ]
    assert lines == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made of it, from a copy of what is tracked."""
    folder = tmp_path_factory.mktemp("built")
    for path in tracked():
        copy = folder / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    make = "import setuptools.build_meta as b; b.build_sdist('../dist'); b.build_wheel('../dist')"
    subprocess.run([sys.executable, "-c", make], cwd=folder / "source", check=True, capture_output=True)
    return folder / "dist"


@pytest.mark.slow
def test_the_wheel_and_the_sdist_hold_code_data_types_and_metadata(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
    wanted = {str(path.relative_to(ROOT)) for path in tracked("preprocessing/*.py", "pipeline/*.py", "tuning/*.py")}
    assert wanted - {"pipeline/normdoctor/setup.py"} <= names
    for name in ("preprocessing/py.typed", "pipeline/py.typed", "tuning/py.typed", "pipeline/presets/default.toml"):
        assert name in names
    assert not [name for name in names if name.startswith("tests")]
    for line in ("Classifier: Typing :: Typed", "Classifier: Private :: Do Not Upload", "Provides-Extra: onnx"):
        assert line in about
    assert "skelnorm = preprocessing.console:main" in scripts
    with tarfile.open(sdist) as packed:
        assert any(name.endswith("/pyproject.toml") for name in packed.getnames())


@pytest.fixture(scope="module")
def skelnorm(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script in an environment of its own, which has our wheel and borrows the libraries of this one."""
    home = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(home, with_pip=False)
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    (packages,) = home.glob("lib/*/site-packages")
    # Not processed as a site folder, so that an editable install in it has no effect.
    (packages / "libraries.pth").write_text(f"{site.getsitepackages()[0]}\n")
    return home / "bin" / "skelnorm"


@pytest.mark.slow
def test_commands_work_from_a_strangers_project(skelnorm: Path, tmp_path: Path) -> None:
    """A folder with packages of our names: neither a command nor a process that it starts imports them."""
    for name in ("pipeline", "preprocessing", "tuning", "normdoctor"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the stranger\\'s own')")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run([skelnorm, *words], cwd=tmp_path, capture_output=True, text=True, env=kept, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert str(ROOT) not in run("--version")
    run("synthetic", "raw", "--clips", "60")
    assert "next: skelnorm train default --data clips.h5" in run("build", "raw", "--out", "clips.h5", "--allow-rejects")
    small = ("--epochs", "1", "--frames", "16", "--model.width", "0.25", "--train.no-self-test")
    run("train", "demo", "--data", "clips.h5", "--out", "run", "--nproc", "2", "--wandb", "offline", *small)
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*")), "the follower is a process of its own"
    assert '"command": "skelnorm train demo --data clips.h5' in (tmp_path / "run" / "summary.json").read_text()
    run("doctor", "run", "--html", "doctor.html")
    assert (tmp_path / "doctor.html").is_file()

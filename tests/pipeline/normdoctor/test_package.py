"""The package stands alone: its folder, copied elsewhere under another name, diagnoses without the repository."""

import ast
import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "pipeline" / "normdoctor"

SCRIPT = """
import sys, torch
import normdoctor
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
batches = [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(4)]
assert set(normdoctor.diagnose(model.eval(), batches, batches).accuracies) == set("ABCD")
assert normdoctor.__file__.startswith(sys.argv[1])
assert not {"pipeline", "preprocessing", "tuning"} & set(sys.modules)
"""


def test_the_folder_works_alone_as_normdoctor(tmp_path: Path) -> None:
    """No other package of the repository is imported."""
    shutil.copytree(FOLDER, tmp_path / "normdoctor")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_installs_alone_into_a_project_with_packages_of_the_same_names(tmp_path: Path) -> None:
    """A stranger's own `pipeline`, `preprocessing` and `utils` stand in front of it."""
    source, site, project = tmp_path / "source" / "normdoctor", tmp_path / "site", tmp_path / "project"
    shutil.copytree(FOLDER, source)  # building leaves files in the source folder
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(install, check=True)
    for name in ("pipeline", "preprocessing", "utils"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise SystemExit('the stranger's own')")
    (project / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(site)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project, env={"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr


def imported(source: str) -> set[str]:
    """Top-level packages that a program text imports absolutely."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            packages.add(str(node.module).partition(".")[0])
    return packages


# Modules behind an extra, which nothing else of the package imports.
EXTRAS = {
    "lightning.py": {"lightning", "pytorch_lightning"},
    "transformers.py": {"transformers"},
    "page.py": {"jinja2"},
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_modules_import_torch_numpy_and_the_standard_library(path: Path) -> None:
    """Everything else of ours by relative imports; a module behind an extra imports its package too."""
    assert imported(path.read_text()) <= {"torch", "numpy", *sys.stdlib_module_names, *EXTRAS.get(path.name, ())}


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_missing_framework_is_one_line_that_says_what_to_install(name: str) -> None:
    """Where the package is not installed."""
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ImportError, match=rf"is missing: pip install 'skelnorm-normdoctor\[{name}\]'"):
        importlib.import_module(f"pipeline.normdoctor.{name}")


def test_the_search_finds_a_foreign_import() -> None:
    """Negative control."""
    assert imported("import scipy.stats\nfrom pipeline.norms import x\nfrom . import y") == {"scipy", "pipeline"}

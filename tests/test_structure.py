"""The rules of the tree: one door a foreign library, nothing loaded that could run code, no undocumented name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for room in ("preprocessing", "pipeline", "tuning") for path in (ROOT / room).rglob("*.py"))
DOORS = {
    "h5py": ["preprocessing/hdf5.py"],
    "wandb": ["pipeline/tracking/report.py"],
    "wandb_workspaces": ["tuning/dashboard.py"],  # builds on wandb, but records no run
    "torch.distributed": ["pipeline/distributed.py"],
    "ray": ["preprocessing/engines.py", "tuning/engine.py"],
    "multiprocessing": ["preprocessing/engines.py", "tuning/attempt.py"],
    "onnxruntime": ["pipeline/export.py"],
    "onnxscript": ["pipeline/export.py"],
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("library", DOORS)
def test_a_foreign_library_has_one_door(library: str) -> None:
    """Imported nowhere but where the design says."""
    users = {str(p.relative_to(ROOT)) for p in SOURCES for name in imports(p) if f"{name}.".startswith(f"{library}.")}
    assert users <= set(DOORS[library])


def test_the_door_check_sees_an_import_inside_a_function() -> None:
    """Negative control: the doors above are found, although some import late."""
    found = set(imports(ROOT / "tuning" / "engine.py"))
    assert any(name.startswith("ray") for name in found)
    assert any(name.startswith("wandb") for name in imports(ROOT / "pipeline" / "tracking" / "report.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_loaded_that_could_run_code(path: Path) -> None:
    """No pickle, no eval or exec, no np.load or torch.load without its guard."""
    assert not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {n.split(".")[0] for n in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        guards = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in ("eval", "exec")
        if name == "torch.load":
            assert guards.get("weights_only") == "True"
        if name == "np.load":
            assert guards.get("allow_pickle") == "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_public_name_is_documented(path: Path) -> None:
    """Modules, classes and functions at the top of a file."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


# Tested where they are used: by a command's own test, or by the clips that come out of them.
TOGETHER = {
    "manifest": "build", "verify": "build", "ledger": "resume", "batches": "resume", "entries": "sources",
    "arrays": "sources", "bodies": "stages", "peers": "recipes", "inspect": "view", "card": "predict",
    "attempt": "trial", "engine": "search", "progress": "search", "variants": "study",
    "arms": "study",
}  # fmt: skip


def test_every_module_has_its_test() -> None:
    """tests/ mirrors the source; what has no test of its own name is tested together with something named here."""
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    modules = {p.stem for p in SOURCES if p.parent.name in ("preprocessing", "pipeline", "tuning")} - {"__init__"}
    assert modules - tested <= set(TOGETHER)
    assert set(TOGETHER.values()) <= tested

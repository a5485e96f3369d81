"""The package stands alone: its folder, copied elsewhere under another name, diagnoses without the repository."""

import ast
import importlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "pipeline" / "normdoctor"

# What import may cost besides torch's own, CPU time.
IMPORT_SECONDS = 0.3

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


STRANGER = """
import time
import torch
begin = time.process_time()
import normdoctor
print("import", time.process_time() - begin)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.out = torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 2)

    def forward(self, x):
        return self.out(sum(torch.relu(self.norm(self.linear(part))) for part in (x, 10 - x)))

def batches(seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (256,), generator=draw)
    x = torch.randn(256, 4, generator=draw)
    x[:, 0] += 3 * y
    return list(zip(x.split(32), y.split(32)))

def doctor():
    torch.manual_seed(0)
    model, train_loader, eval_loader = Net(), batches(0), batches(1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(80):
        x, y = train_loader[step % 8]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval(), train_loader, eval_loader
"""
SAVES = """
import sys, torch, normdoctor
from stranger import doctor
model, train_loader, eval_loader = doctor()
d = normdoctor.diagnose(model, train_loader, eval_loader)
print(d)
repaired = d.repaired("per_call")
torch.save(repaired.state_dict(), "repaired.pt")
torch.save(repaired(eval_loader[0][0]), "expected.pt")
torch.onnx.export(repaired, (eval_loader[0][0],), "repaired.onnx", dynamo=False, input_names=["x"])
assert not {"pipeline", "preprocessing", "tuning"} & set(sys.modules)
"""
LOADS = """
import numpy, onnxruntime, torch, normdoctor
from stranger import Net, batches
model = normdoctor.load_repaired(Net(), torch.load("repaired.pt", weights_only=True)).eval()
x, expected = batches(1)[0][0], torch.load("expected.pt", weights_only=True)
assert torch.equal(model(x), expected)
(found,) = onnxruntime.InferenceSession("repaired.onnx").run(None, {"x": x.numpy()})
assert numpy.allclose(found, expected.detach().numpy(), atol=1e-4)
"""


@pytest.mark.slow
def test_it_installs_alone_into_a_stranger_s_project(tmp_path: Path) -> None:
    """An environment made anew, with torch beside; the project has a `pipeline` and a `preprocessing` of its own.

    Import costs at most 0.3 s of torch's; three lines diagnose; the repaired model is saved, loaded and exported; the
    command is there.
    """
    source, home, project = tmp_path / "source" / "normdoctor", tmp_path / "home", tmp_path / "project"
    shutil.copytree(FOLDER, source)  # building leaves files in the source folder
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "torch.pth").write_text(sysconfig.get_path("purelib"))  # torch, and no editable package of ours
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(source)], check=True)
    for name in ("pipeline", "preprocessing", "utils"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise SystemExit('a package of the project was imported')")
    for name, text in (("stranger", STRANGER), ("saves", SAVES), ("loads", LOADS)):
        (project / f"{name}.py").write_text(text)

    def ran(*command: str) -> str:
        done = subprocess.run(
            [str(home / "bin" / command[0]), *command[1:]], cwd=project, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    times = [float(ran("python", "stranger.py").split()[1]) for _ in range(3)]
    assert min(times) <= IMPORT_SECONDS, times
    assert "Assumed: " in ran("python", "saves.py")
    ran("python", "loads.py")
    assert "Assumed: the model is called as" in ran("normdoctor", "stranger:doctor", "--json", "doctor.json")
    assert (project / "doctor.json").exists()


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
    with pytest.raises(ImportError, match=rf"is missing: pip install {name}"):
        importlib.import_module(f"pipeline.normdoctor.{name}")


def test_the_search_finds_a_foreign_import() -> None:
    """Negative control."""
    assert imported("import scipy.stats\nfrom pipeline.norms import x\nfrom . import y") == {"scipy", "pipeline"}

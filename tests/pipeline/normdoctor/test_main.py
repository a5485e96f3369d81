"""python -m normdoctor: a stranger's factory and checkpoint; every mistake in one line."""

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.normdoctor import load_repaired
from pipeline.normdoctor.__main__ import main
from pipeline.normdoctor.checkpoint import load_checkpoint

NUMBERS = itertools.count()
NETWORK = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()

def data(seed):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (192,), generator=draw)
    x = torch.randn(192, 4, generator=draw) + 20
    x[torch.arange(192), y] += 4
    return list(zip(x.split(32), y.split(32), strict=True))

def trained():
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        x, y = data(0)[step % 6]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model[1].reset_running_stats()
    return model.eval()

def doctor():
    return network(), data(0), data(1)

def sick():
    return {"model": trained(), "train": data(0), "eval": data(1), "metric": "accuracy"}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A stranger's folder; called with more source, it returns the module's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def module(more: str = "") -> str:
        name = f"stranger{next(NUMBERS)}"
        Path(f"{name}.py").write_text(NETWORK + more)
        return name

    return module


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    code = main(arguments)
    out, errors = capsys.readouterr()
    return code, out, errors


def test_a_factory_is_diagnosed_and_repaired(
    project: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verdict, figures and remedy; the page, the JSON and the repaired model are written."""
    pytest.importorskip("jinja2")
    name = project("")
    files = ["--html", "doctor.html", "--json", "doctor.json", "--repaired", "fixed.pt"]
    code, out, _ = run(capsys, f"{name}:sick", *files)
    assert code == 0
    assert "Remedy of the cause buffers: now: recompute the running statistics" in out
    assert ". Gap: B - A " in out
    assert "written: fixed.pt (remedy: joint)" in out
    assert json.loads(Path("doctor.json").read_text())["causes"][0]["check"] == "buffers"
    assert "<html" in Path("doctor.html").read_text()
    stranger = sys.modules[name]
    model = load_repaired(stranger.network(), torch.load("fixed.pt", weights_only=True))
    right = torch.cat([model(x).argmax(1) == y for x, y in stranger.data(1)]).double().mean().item()
    promised = json.loads(Path("doctor.json").read_text())["recalibration"]["joint"]["C"]
    assert right == pytest.approx(promised, abs=0.006)


def test_a_checkpoint_is_loaded_before(project: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """The untrained model of the factory with the weights of the file."""
    name = project("")
    assert run(capsys, f"{name}:doctor")[0] == 0
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(sys.modules[name].trained()).state_dict()}, "last.ckpt")
    code, out, errors = run(capsys, f"{name}:doctor", "--checkpoint", "last.ckpt")
    assert code == 0
    assert "last.ckpt loaded without entry 'state_dict' and prefix 'module.'" in errors
    assert "cause buffers" in out


def small() -> nn.Sequential:
    """A network."""
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def named(prefix: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """State dict with a prefix."""
    return {f"{prefix}{name}": value for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),
        lambda model: {"model": model.state_dict(), "optimizer": {"state": {}}},
        lambda model: {"state_dict": {"loss.w": torch.ones(1), **named("model.", model)}},
        lambda model: {"epoch": 1, "ema": named("module.", model)},
        lambda model: {"nets": {"generator": model.state_dict()}},
        lambda model: torch.compile(model, backend="eager").state_dict(),
        lambda model: AveragedModel(model).state_dict(),
        lambda model: {"model_state_dict": AveragedModel(torch.compile(model, backend="eager")).state_dict()},
    ],
)  # fmt: skip
def test_what_wraps_a_state_dict_is_taken_off(wrap: Callable[[nn.Module], object], tmp_path: Path) -> None:
    """Entries and prefixes of DDP, torch.compile, averages and Lightning."""
    model = small()
    model[1].running_mean.fill_(5)
    torch.save(wrap(model), tmp_path / "c.pt")
    loaded, _ = load_checkpoint(small(), tmp_path / "c.pt")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (lambda: small(), 2, r"c.pt holds more than tensors \(torch.nn.modules.container.Sequential\)"),
        (lambda: {"epoch": 3}, 2, "c.pt holds no state dict, only epoch: save model.state_dict()"),
        (lambda: 3, 2, "c.pt holds a int: a state dict is needed"),
        (lambda: {"a": small().state_dict(), "b": small().state_dict()}, 2, r"holds 2 state dicts \(a, b\)"),
        (lambda: {"0.weight": torch.ones(1, 9)}, 2, r"it lacks 0.bias, 1.weight.* shapes differ \(0.weight \(1, 9\)"),
        (b"PK nothing", 6, "c.pt is not a checkpoint that torch.save wrote|c.pt cannot be read"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_named(
    content: object, code: int, words: str, project: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Objects are never unpickled; a file that is damaged has exit code 6."""
    name = project("\ndef short():\n    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), data(0)\n")
    if isinstance(content, bytes):
        Path("c.pt").write_bytes(content)
    else:
        torch.save(content(), "c.pt")  # type: ignore[operator]
    found, out, errors = run(capsys, f"{name}:short", "--checkpoint", "c.pt")
    assert found == code, errors
    assert errors.count("\n") == 1
    assert re.search(words, errors), errors


SOURCES = {
    "number": "def wrong(): return 3",
    "four": "def wrong(): return 1, 2, 3, 4",
    "no model": "def wrong(): return 'resnet', [], []",
    "unknown": "def wrong(): return {'model': network(), 'train': data(0), 'valid': data(1)}",
    "missing": "def wrong(): return {'model': network()}",
    "raises": "def wrong(): raise KeyError('path')",
    "import": "import nowhere_to_be_found",
}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("number", "returns a int: return (model, train loader, evaluation loader), or a dictionary"),
        ("four", "returns a tuple of 4: return (model"),
        ("no model", "returns a str as the model: it must be a torch.nn.Module."),
        ("unknown", "returns the unknown key 'valid': allowed are model, train, eval, forward, metric"),
        ("missing", "returns a dictionary without 'train'"),
        ("raises", "fails with KeyError: 'path'. See the traceback: python -c"),
        ("import", "fails with ModuleNotFoundError: No module named 'nowhere_to_be_found'. See the traceback:"),
    ],
)
def test_a_wrong_factory_is_named(
    source: str, words: str, project: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with what is allowed."""
    code, _, errors = run(capsys, f"{project(SOURCES[source])}:wrong")
    assert code == 2
    assert words in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train.py:doctor"],
            "'train.py:doctor' does not name a function: write module:factory, such as train:doctor.",
        ),
        (["train"], "such as train:doctor."),
        (["no_such_module:doctor"], "There is no module 'no_such_module' in"),
        (["json:docter"], "json has no function 'docter': it has dump"),
        (["json:dumps", "--html", "page.txt"], "--html page.txt must end in .html."),
        (["json:dumps", "--html", "no/page.html"], "--html no/page.html: the folder no does not exist."),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], words: str, project: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    code, _, errors = run(capsys, *arguments)
    assert code == 2
    assert words in errors
    assert errors.count("\n") == 1


def test_a_checkpoint_that_is_absent_is_named(
    project: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the system says it."""
    code, _, errors = run(capsys, f"{project('')}:doctor", "--checkpoint", "absent.pt")
    assert code == 2
    assert "No such file or directory: 'absent.pt'" in errors
    assert errors.count("\n") == 1


def test_help_shows_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """As every command of ours."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "train:doctor --checkpoint last.ckpt --html doctor.html" in out
    assert "exit codes: 0" in out

"""Linter rules hold the doors: negative controls that break each rule and see it reported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Source text -> the rule that must reject it.
BROKEN = {
    "import h5py\n": "TID251",
    "def load():\n    import wandb\n": "TID251",
    "from torch.distributed import all_reduce\n": "TID251",
    "from ray import tune\n": "TID251",
    "import pickle\n": "TID251",
    "import torch\n\nx = torch.load('file.pt', weights_only=False)\n": "TID251",
    "import numpy as np\n\nx = np.load('file.npz', allow_pickle=True)\n": "TID251",
    "x = eval('1')\n": "S307",
    "exec('x = 1')\n": "S102",
    '"""A module."""\n\n\ndef public(x):\n    return x\n': "D103",
}


def rules_broken(text: str) -> set[str]:
    """Rules that ruff reports for a source file of `pipeline` with this text."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format=concise",
        "--stdin-filename=pipeline/example.py",
        "-",
    ]
    result = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
    return {line.split()[1] for line in result.stdout.splitlines() if line.startswith("pipeline/example.py")}


@pytest.mark.parametrize(("text", "rule"), BROKEN.items(), ids=lambda value: value.splitlines()[0][:40])
def test_the_linter_rejects(text: str, rule: str) -> None:
    """Each forbidden construct is reported under its rule."""
    assert rule in rules_broken(text)


def test_the_linter_accepts_a_plain_module() -> None:
    """Control: a documented module without foreign imports breaks no rule."""
    assert rules_broken('"""A module."""\n\nANSWER = 42\n') == set()

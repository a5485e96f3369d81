"""The public names of `tuning`."""

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import tuning

ROOT = Path(__file__).parents[2]


def test_every_public_name_exists_and_has_a_docstring() -> None:
    """Each is loaded from the module that defines it; registries are described by their module."""
    for name in tuning.__all__:
        value = getattr(tuning, name)
        assert name.isupper() or (value.__doc__ and value.__module__.startswith(("tuning.", "preprocessing.")))
    assert dir(tuning) == sorted(tuning.__all__)
    assert (resources.files("tuning") / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tuning' has no attribute 'serach'"):
        _ = tuning.serach


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    """A Ray worker imports tuning.attempt, which must stay as light."""
    code = "import sys, tuning.attempt; print({'torch', 'ray', 'optuna', 'scipy'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == "set()\n"

"""The public surface of preprocessing: every name resolves, and importing the package loads nothing."""

import subprocess
import sys

import pytest

import preprocessing


def test_every_public_name_resolves() -> None:
    assert all(getattr(preprocessing, name) is not None for name in preprocessing.__all__)
    assert preprocessing.open_file.__module__ == "preprocessing.hdf5.reader"
    assert dir(preprocessing) == sorted(preprocessing.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'open_flie'"):
        _ = preprocessing.open_flie  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [("import preprocessing", "numpy h5py numba torch ray"), ("preprocessing.open_file", "numba torch ray")],
)
def test_importing_loads_no_more_than_needed(statement: str, heavy: str) -> None:
    code = f"import sys, preprocessing; {statement}; print([m for m in {heavy.split()} if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"

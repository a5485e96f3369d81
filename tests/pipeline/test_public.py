"""The public surface of pipeline: every name resolves, and importing the package loads nothing."""

import subprocess
import sys

import pytest

import pipeline


def test_every_public_name_resolves() -> None:
    """And the table of modules holds the same names."""
    assert all(getattr(pipeline, name) is not None for name in pipeline.__all__)
    assert pipeline.load.__module__ == "pipeline.predictor"
    assert dir(pipeline) == sorted(pipeline.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = pipeline.laod  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [("import pipeline", "numpy h5py torch wandb jinja2 tyro"), ("pipeline.Run", "torch wandb jinja2 ray")],
)
def test_importing_loads_no_more_than_needed(statement: str, heavy: str) -> None:
    """A command that only shows a run does not wait for torch."""
    code = f"import sys, pipeline; {statement}; print([m for m in {heavy.split()} if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"

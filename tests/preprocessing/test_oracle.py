"""Recipe ctr equals the plain Python chain to the last bit, on synthetic clips and on real ones."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from preprocessing import export
from preprocessing.build import main as build
from preprocessing.hdf5 import open_file
from preprocessing.synthetic import main as synthetic


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The plain Python chain."""
    path = Path(__file__).parents[1] / "reference" / "ctr_chain.py"
    spec = importlib.util.spec_from_file_location("ctr_chain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(reference: ModuleType, folder: Path, out: Path) -> int:
    """Compare every clip of a build of `folder` with the chain; how many there were."""
    assert build([str(folder), "--out", str(out), "--recipe", "ctr", "--allow-rejects"]) == 0
    file = open_file(out)
    names = file.clips["name"].tolist()
    expected_NTD = reference.chain([next(folder.rglob(f"{name}.skeleton")) for name in names])
    made_NTD = np.zeros_like(expected_NTD)
    for clip in range(len(names)):
        rows_TD = export.clip_rows(file, clip).transpose(1, 0, 2, 3).reshape(int(file.clips["frames"][clip]), -1)
        made_NTD[clip, : len(rows_TD), : rows_TD.shape[1]] = rows_TD
    assert np.array_equal(made_NTD, expected_NTD)
    return len(names)


def test_synthetic_clips_come_out_as_the_chain_makes_them(reference: ModuleType, tmp_path: Path) -> None:
    assert synthetic([str(tmp_path / "clips"), "--clips", "180", "--seed", "5"]) == 0
    assert same(reference, tmp_path / "clips", tmp_path / "a.h5") > 150


def test_real_recordings_come_out_as_the_chain_makes_them(
    reference: ModuleType, real_data: Path, tmp_path: Path
) -> None:
    assert same(reference, real_data / "ntu_raw", tmp_path / "a.h5") == 121


def test_the_chain_itself_gives_the_originals_arrays(reference: ModuleType, real_data: Path) -> None:
    with np.load(real_data / "ctr_golden" / "NTU60_CS.npz") as golden:
        paths = sorted((real_data / "ntu_raw").glob("S017C003P020R002A0*.skeleton"))
        assert np.array_equal(reference.chain(paths), golden["x_test"])

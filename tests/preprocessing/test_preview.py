"""preview.py: the unit of coordinates, and the joint that a source has centred."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.preview import centred, extent_of, sentinel, units
from preprocessing.sources import open_sources
from tests.preprocessing.test_build_gaps import CLIPS, T, V, coordinates, make, save, story


def people(factor: float = 1.0) -> np.ndarray:
    """Bodies of 1.6 m."""
    x = coordinates() - np.arange(V, dtype=np.float32)[:, None]
    x[..., 1] += np.linspace(0, 1.6, V, dtype=np.float32)
    return x * np.float32(factor)


@pytest.mark.parametrize(("factor", "unit"), [(10, "dm"), (100, "cm"), (1000, "mm")])
def test_bodies_too_large_are_named_with_the_unit_that_fits(tmp_path: Path, factor: float, unit: str) -> None:
    source = open_sources([save(tmp_path / "a.npz", people(factor))])
    stages, warning = units(source, "m")
    assert stages == ()
    assert warning.startswith(f"bodies are about {factor} times as large as people")
    assert f"--unit {unit}" in warning
    (stage,), silent = units(source, unit)
    assert (stage.parameters, silent) == ({"metres": pytest.approx(1 / factor)}, "")
    assert units(source, "px") == ((), "")


def test_people_and_small_bodies_get_no_warning(tmp_path: Path) -> None:
    for factor in (1.0, 1.4, 0.5, 0.001):
        assert units(open_sources([save(tmp_path / "a.npz", people(factor))]), "m") == ((), "")


def test_bodies_of_no_known_unit_are_named_too(tmp_path: Path) -> None:
    warning = units(open_sources([save(tmp_path / "a.npz", people(1e20))]), "m")[1]
    assert warning.startswith("bodies are about 1e20 times as large as people")


def test_a_point_that_several_joints_share_is_named_and_can_mean_absent(tmp_path: Path) -> None:
    x = people()
    assert sentinel(open_sources([save(tmp_path / "a.npz", x)])) == ""
    x[::3, 0, ::2] = -1
    path = save(tmp_path / "b.npz", x)
    warning = sentinel(open_sources([path]))
    assert warning.endswith(
        "joints are at (-1, -1, -1). If that means that they were not found, say --absent=-1; otherwise they are taken"
        " for positions"
    )
    assert story(make(path))["warnings"][0] == warning
    file = make(path, "--absent=-1", "--overwrite")
    assert story(file)["counts"]["absent_joints"] == int((x == -1).all(axis=-1).sum())
    assert "warnings" not in story(file)


def test_absent_joints_do_not_count_as_large(tmp_path: Path) -> None:
    x = people()
    x[:, 0, 0] += 30
    x[:, 0, 0] = np.nan
    x[1::2, 0, 1] = 0
    assert extent_of(open_sources([save(tmp_path / "a.npz", x)])) < 4


def test_a_build_in_millimetres_has_metres(tmp_path: Path) -> None:
    file = make(save(tmp_path / "a.npz", people(1000)), "--unit", "mm")
    whole = make(save(tmp_path / "b.npz", people()))
    np.testing.assert_allclose(file.joints_RV3, whole.joints_RV3, atol=1e-4)
    assert file.recipe["stages"][0] == {"stage": "unit", "metres": 0.001}
    assert "warnings" not in story(file)
    assert "--unit mm" in story(make(save(tmp_path / "c.npz", people(1000))))["warnings"][0]


def test_the_centred_joint_is_found_in_most_clips(tmp_path: Path) -> None:
    x = people().reshape(CLIPS, T, 1, V, 3)
    assert centred(open_sources([save(tmp_path / "a.npz", x.reshape(-1, 1, V, 3))])) == -1
    moved = x - x[:, :1, :, 2:3]
    assert centred(open_sources([save(tmp_path / "a.npz", moved.reshape(-1, 1, V, 3))])) == 2
    moved[0] += 1
    assert centred(open_sources([save(tmp_path / "a.npz", moved.reshape(-1, 1, V, 3))])) == 2
    moved[:3] += 1
    assert centred(open_sources([save(tmp_path / "a.npz", moved.reshape(-1, 1, V, 3))])) == -1

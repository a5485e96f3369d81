"""The Ray engine gives the same bytes on two nodes of one machine; a missing cluster or Ray is reported."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocessing import engines
from preprocessing.build import main as build

# One worker runs all tests that start or look for a Ray cluster: on one machine they would find one another's.
pytestmark = pytest.mark.xdist_group("ray")

TIME_LIMIT = 300  # seconds, of any one step


def test_ray_is_imported_only_on_demand() -> None:
    code = "import sys, preprocessing.build; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_engine_gets_one_line(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build([str(recordings), "--out", str(tmp_path / "a.h5"), "--engine", "dask"]) == 2
    assert "choose one of processes, threads, ray" in capsys.readouterr().err


def test_without_ray_the_error_names_the_remedy(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert build([str(recordings), "--out", str(tmp_path / "a.h5"), "--engine", "ray"]) == 2
    assert "pip install 'ray[default]'" in capsys.readouterr().err


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two nodes of one CPU each on this machine, ended with the test."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made.address
    made.shutdown()
    os.environ.clear()
    os.environ |= before


@pytest.mark.slow
def test_two_nodes_give_the_bytes_that_one_machine_gives(recordings: Path, tmp_path: Path, cluster: str) -> None:
    assert build([str(recordings), "--out", str(tmp_path / "a.h5")]) == 0
    command = [sys.executable, "-m", "preprocessing.build", str(recordings), "--out", str(tmp_path / "b.h5")]
    child = subprocess.run(
        [*command, "--engine", "ray", "--address", cluster],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_address_without_a_cluster_gets_one_line(recordings: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "preprocessing.build", str(recordings), "--out", str(tmp_path / "b.h5")]
    child = subprocess.run(
        [*command, "--engine", "ray", "--address", "127.0.0.1:9"],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
    )  # fmt: skip
    assert child.returncode == 2
    assert "Traceback" not in child.stderr
    assert child.stderr.strip().splitlines()[-1].startswith("error: no Ray cluster at 127.0.0.1:9")


def test_a_cluster_that_is_gone_gets_one_line(
    recordings: Path, tmp_path: Path, cluster_gone: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build([str(recordings), "--out", str(tmp_path / "b.h5"), "--engine", "ray"]) == 2
    assert re.search(rf"no Ray cluster at auto \(\S+:{cluster_gone}: ", capsys.readouterr().err)


def test_every_engine_takes_the_same_arguments() -> None:
    assert set(engines.ENGINES) == {"processes", "threads", "ray"}

"""Files of another user, without root's privileges: every command names the path, exits with 2 and makes nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_file

ROOT = Path(__file__).parents[1]
NOBODY = 65534
PLAIN = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
TRAIN = ["--wandb", "off", "--train.epochs", "1", "--input.frames", "16", "--train.no-self-test"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("setpriv"),
        reason="needs root, to give files away, and setpriv (util-linux)",
    ),
]


def command(*words: str, prefix: list[str] = PLAIN) -> subprocess.CompletedProcess[str]:
    """A command, by default without the privilege to read and write everything."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", *words], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, a data file and a run that are ours; the same of another user; a folder to which he alone writes."""
    folder = tmp_path_factory.mktemp("place")
    assert command("preprocessing.synthetic", f"{folder}/raw", "--clips", "6").returncode == 0
    write_file(folder / "own.h5")
    assert (
        command("pipeline.train", "default", "--data", f"{folder}/own.h5", "--out", f"{folder}/run", *TRAIN).returncode
        == 0
    )
    shutil.copytree(folder / "raw", folder / "his_raw")
    shutil.copytree(folder / "run", folder / "his_run")
    shutil.copy(folder / "own.h5", folder / "his.h5")
    (folder / "his").mkdir()
    for name in ("his", "his_raw", "his_run", "his.h5"):
        for path in (folder / name, *(folder / name).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755 if name == "his" else 0o700)
    return folder


CASES = {
    "build, reading": ("preprocessing.build {0}/his_raw --out {0}/new.h5", "his_raw"),
    "build, writing": ("preprocessing.build {0}/raw --out {0}/his/new.h5", "his/"),
    "verify": ("preprocessing.verify {0}/his.h5", "his.h5"),
    "inspect": ("preprocessing.inspect {0}/his.h5", "his.h5"),
    "export": ("preprocessing.export {0}/own.h5 --format dense --out {0}/his/new.h5", "his/new.h5"),
    "synthetic": ("preprocessing.synthetic {0}/his/raw --clips 3", "his/raw"),
    "train": ("pipeline.train default --data {0}/own.h5 --out {0}/his/run", "his/run"),
    "doctor": ("pipeline.doctor {0}/his_run", "his_run"),
    "predict": ("pipeline.predict {0}/his_run {0}/raw", "his_run"),
    "page, reading": ("pipeline.page {0}/his_run --out {0}/new.html", "his_run"),
    "page, writing": ("pipeline.page {0}/run --out {0}/his/new.html", "his/new.html"),
    "search": ("tuning.search --data {0}/own.h5 --out {0}/his/study --trials 1", "his/study"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_what_is_not_permitted(place: Path, name: str) -> None:
    words, path = CASES[name]
    before = {file: file.stat().st_mtime_ns for file in place.rglob("*")}
    result = command(*words.format(place).split())
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "ermission denied" in line
    assert f"{place}/{path}" in line
    assert "Traceback" not in result.stderr
    assert {file: file.stat().st_mtime_ns for file in place.rglob("*")} == before


def test_with_the_privilege_the_same_works(place: Path) -> None:
    """Control: it is the permission that fails the commands above."""
    words, _ = CASES["verify"]
    assert command(*words.format(place).split(), prefix=[]).returncode == 0
    words, _ = CASES["page, writing"]
    assert command(*words.format(place).split(), prefix=[]).returncode == 0
    (place / "his" / "new.html").unlink()

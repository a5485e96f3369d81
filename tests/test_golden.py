"""Golden results of commit c149596, before modules moved: the same commands must give the same bits.

`golden/record.py` makes every result through commands and the files that they leave; `golden/*.json` holds what it made
with the old code, `golden/old` what the old code left: data files, runs, a search and a study.

Hashes of files are compared with `==` on every machine: NumPy and Numba gave the same bytes with AVX-512, with AVX2 and
with neither. Losses, accuracies and the doctor's figures are compared with `==` where the torch version and the CPU are
the recorded ones.

On another CPU the instruction sets are pinned (`PINS` in record.py), so that the same bits are likely but not certain.
There the first loss may differ by 1e-6 of its value, the second by 1e-3 and later ones by 1e-1. Without pins, AVX-512,
AVX2 and SSE differed by 2e-7, 3e-4 and at most 4e-2 within 20 steps: AdamW makes whole steps of gradients that are
nothing but rounding errors. For the same reason a run that is trained to its end is compared on the recorded CPU only;
the figures of the old run, whose weights are stored, may differ by 1e-3. With another torch version, the tests of
trainings are skipped.

Only what was recorded is compared: a new key in a summary, a ledger or a diagnosis changes no result.
"""

import fcntl
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden import record

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
LOSSES = (1e-6, 1e-3, *[1e-1] * 18)  # relative, per step
STORED = 1e-3  # relative, of figures that stored weights give


def recorded(part: str) -> dict[str, Any]:
    """The recorded results of a part."""
    return json.loads((GOLDEN / f"{part}.json").read_text())["results"]


def made(out: Path, *parts: str, **variables: str) -> Path:
    """Run record.py on this tree's code, in a process of its own."""
    result = subprocess.run(
        [sys.executable, str(GOLDEN / "record.py"), str(out), *parts],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, cwd=out, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    return out


def results(out: Path, part: str) -> dict[str, Any]:
    """The results that record.py has just made."""
    return json.loads((out / f"{part}.json").read_text())["results"]


def here(part: str, *libraries: str) -> str:
    """Compare this machine with the recorded one: `same`, `cpu` (another CPU) or the name of another library."""
    theirs, mine = json.loads((GOLDEN / f"{part}.json").read_text())["environment"], record.environment()
    for library in ("torch", *libraries):
        if theirs[library] != mine[library]:
            return library
    return "same" if (theirs["machine"], theirs["cpu"]) == (mine["machine"], mine["cpu"]) else "cpu"


def on_recorded_cpu(part: str, *libraries: str) -> bool:
    """Return whether the CPU is the recorded one. Skip the test where a library differs."""
    place = here(part, *libraries)
    if place not in ("same", "cpu"):
        pytest.skip(f"recorded with another version of {place}, which may round or draw in another way")
    return place == "same"


def differences(found: Any, expected: Any, relative: float = 0.0, at: str = "results") -> list[str]:
    """List what differs from the expected values. Without a bound a number must be equal, bit for bit."""
    if isinstance(expected, dict) and isinstance(found, dict):
        missing = [f"{at}.{key} is missing" for key in expected.keys() - found.keys()]
        pairs = [(f"{at}.{key}", found[key], expected[key]) for key in expected.keys() & found.keys()]
    elif isinstance(expected, list) and isinstance(found, list):
        missing = [] if len(found) == len(expected) else [f"{at} has {len(found)} entries, not {len(expected)}"]
        pairs = [(f"{at}[{i}]", a, b) for i, (a, b) in enumerate(zip(found, expected, strict=False))]
    else:
        number = isinstance(expected, float) and isinstance(found, float)
        same = found == expected or (number and math.isclose(found, expected, rel_tol=relative))
        return [] if same else [f"{at} is {found!r}, not {expected!r}"]
    return missing + [line for name, a, b in pairs for line in differences(a, b, relative, name)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of all networks, the doctor's run, and the old folders opened: one process, so that torch loads once.

    Workers of pytest-xdist share the folder: the first makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "golden"
    out.mkdir(exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "compatibility.json").exists():
            made(out, "losses", "doctor", "compatibility")
    return out


def test_synthetic_clips_and_built_files_have_the_recorded_hashes(tmp_path: Path) -> None:
    """40 clips, the file that each recipe makes of them, and a file of arrays."""
    assert not differences(results(made(tmp_path, "synthetic"), "synthetic"), recorded("synthetic"))


def test_real_recordings_have_the_recorded_hashes(real_data: Path, tmp_path: Path) -> None:
    """Content hash, counts and split counts of the 121 usable clips, for each recipe."""
    found = results(made(tmp_path, "real", SKELNORM_REAL_DATA=str(real_data)), "real")
    assert found["exact"]["manifest"]["clips"] == 121
    assert not differences(found, recorded("real"))


@pytest.mark.parametrize("network", recorded("losses"))
def test_the_first_losses_are_the_recorded_ones(trained: Path, network: str) -> None:
    """20 steps, then the accuracies."""
    expected, found = recorded("losses")[network], results(trained, "losses")[network]
    assert len(expected["losses"]) == 20
    if on_recorded_cpu("losses"):
        assert not differences(found, expected)
    else:
        steps = zip(found["losses"], expected["losses"], LOSSES, strict=True)
        assert not [line for loss, value, bound in steps for line in differences(loss, value, bound)]


@pytest.mark.parametrize("part", ["run", "doctor"])
def test_the_doctor_measures_the_recorded_figures(trained: Path, part: str) -> None:
    """Of a run with one BatchNorm in a loop over bodies; names and numbers, not sentences."""
    if not on_recorded_cpu("doctor"):
        pytest.skip("another CPU than the recorded one: 48 steps of training need not give the same bits")
    assert not differences(results(trained, "doctor")[part], recorded("doctor")[part])


def test_the_recorded_diagnosis_has_a_cause() -> None:
    """The control of the test above: it compares a proven cause, not empty lists."""
    assert [cause["check"] for cause in recorded("doctor")["doctor"]["causes"]] == ["reuse"]


@pytest.mark.slow
def test_a_search_draws_and_measures_what_was_recorded(tmp_path: Path) -> None:
    """Three trials: settings, seeds, curves and accuracies."""
    exact = on_recorded_cpu("search", "optuna")
    found, expected = results(made(tmp_path, "search"), "search"), recorded("search")
    for trials in (found["trials"], expected["trials"]):
        assert [trial["task"]["name"] for trial in trials] == ["0000", "0001", "0002"]
    assert not differences([t["task"] for t in found["trials"]], [t["task"] for t in expected["trials"]])
    if exact:
        assert not differences(found, expected)


def opened(trained: Path) -> dict[str, Any]:
    """Results of the old folders. They open with any version of torch, so that nothing is skipped."""
    return results(trained, "compatibility")


def stored() -> float:
    """Allowed difference of figures that stored weights give."""
    return 0.0 if here("doctor") == "same" else STORED


@pytest.mark.parametrize(("name", "built"), [("clips", "exact"), ("swing", "arrays")])
def test_an_old_data_file_is_the_one_that_is_built_today(trained: Path, name: str, built: str) -> None:
    """It passes preprocessing.verify, too."""
    assert not differences(opened(trained)[name], recorded("synthetic")[built])


def test_a_finished_old_run_opens_and_gives_its_summary_again(trained: Path) -> None:
    """The same command trains nothing and evaluates the old weights; no path in its config.json exists here."""
    found = opened(trained)
    assert found["finished exit code"] == 0
    assert not differences(found["finished"], record.run_facts(record.OLD / "runs" / "finished"), stored())


def test_an_interrupted_old_run_resumes_to_the_end_of_the_finished_one(trained: Path) -> None:
    """Optimizer state included: each later loss is that of the run that was not interrupted."""
    found = opened(trained)
    assert found["epochs before"] == 3
    assert found["interrupted exit code"] == 0
    assert len(found["interrupted"]["ledger"]) == 12
    finished = record.run_facts(record.OLD / "runs" / "finished")
    assert not differences(found["interrupted"]["ledger"][:3], finished["ledger"][:3])
    if here("doctor") == "same":
        assert not differences(found["interrupted"], finished)


def test_an_old_run_is_diagnosed_as_it_was(trained: Path) -> None:
    """Names and numbers of its doctor.json."""
    found = opened(trained)
    old = json.loads((record.OLD / "runs" / "finished" / "doctor.json").read_text())
    assert not differences(found["doctor"], record.figures(old), stored())


@pytest.mark.parametrize("name", ["search", "study"])
def test_an_old_study_goes_on_and_has_its_results(trained: Path, name: str) -> None:
    """The same command has nothing left to train. Its tables come from the old ledger: equal on every machine.

    Intervals were bootstrap percentiles then and come from Student's t now; p comes from scipy, equal up to rounding.
    """
    old = json.loads((record.OLD / name / "results.json").read_text())
    old.pop("command")
    for row in old.get("arms", []):
        assert "interval" in row
        row.pop("interval")
    assert not differences(opened(trained)[name], old, relative=0.0 if name == "search" else 1e-12)


def test_pages_show_old_runs_and_studies(trained: Path) -> None:
    """pipeline.page over a run and a search, and the pages of the search and the study."""
    found = opened(trained)["pages"]
    assert len(found) == 3
    assert all(found.values())
    page = (trained / "compatibility" / "page.html").read_text()
    assert "finished" in page
    assert "reuse" in page


def test_a_difference_is_found() -> None:
    """The control: one bit, one name, one entry; and bounds where they are given."""
    values = {"a": [1.0, {"b": "x"}], "c": 3}
    assert not differences({**values, "new": 0}, values)
    assert differences({"a": [math.nextafter(1.0, 2), {"b": "x"}], "c": 3}, values)
    assert differences({"a": [1.0, {"b": "y"}], "c": 3}, values)
    assert differences({"a": [1.0], "c": 3}, values)
    assert differences({"a": [1.0, {"b": "x"}]}, values)
    assert differences({"a": [1.1, {"b": "x"}], "c": 3}, values, relative=0.05)
    assert not differences({"a": [1.01, {"b": "x"}], "c": 3}, values, relative=0.05)

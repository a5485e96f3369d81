"""Files that releases left: this and every later version opens them, and goes on with them (golden/release.py)."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pipeline import adopt, checkpoint, ensemble, evaluate, integrity, page, predict, train
from pipeline.doctor import __main__ as doctor
from pipeline.run_folder import Run
from preprocessing.files import IntegrityError
from preprocessing.hdf5 import open_file, verify
from tests.conftest import Answer
from tests.golden.release import STUDY, TRAIN
from tuning import study

RELEASES = Path(__file__).parent / "golden" / "releases"
CPU = torch.device("cpu")


@pytest.fixture(params=sorted(path.name for path in RELEASES.iterdir()))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, in another place than where it was made."""
    return Path(shutil.copytree(RELEASES / request.param, tmp_path / "release"))


def test_data_files_open_and_are_intact(release: Path) -> None:
    """Both schemas."""
    assert [verify(release / f"{name}.h5") for name in ("clips", "gaps")] == [[], []]
    clips, gaps = (open_file(release / f"{name}.h5") for name in ("clips", "gaps"))
    assert (clips.tracked_RV is None, gaps.tracked_RV is None) == (True, False)
    assert len(clips.clips["name"]) == 30


def test_a_finished_run_is_whole_and_keeps_its_figures(release: Path, answer: Answer, tmp_path: Path) -> None:
    """The same command evaluates it again; the doctor, the page and an evaluation read it."""
    folder = release / "runs" / "finished"
    before = Run(folder).summary
    assert Run(folder).doctor is not None
    assert answer(lambda: adopt.main([str(folder)])).stdout == f"{folder}: whole, nothing to adopt\n"
    assert answer(page.main, folder, "--out", tmp_path / "page.html").returncode == 0
    words = (folder, "--data", release / "clips.h5", "--out", tmp_path / "figures.json")
    assert answer(evaluate.main, *words).returncode == 0
    assert answer(doctor.main, folder).returncode == 0
    (folder / integrity.SUMMARY).unlink()
    result = answer(train.main, "default", "--data", release / "clips.h5", "--out", folder, *TRAIN)
    assert result.returncode == 0, result.stderr
    after = Run(folder).summary
    assert [after[part]["top1"] for part in ("train", "val", "test")] == [
        before[part]["top1"] for part in ("train", "val", "test")
    ]


def test_an_interrupted_run_goes_on(release: Path, answer: Answer) -> None:
    """From its checkpoint to the end; its first line stays."""
    folder = release / "runs" / "interrupted"
    first = (folder / "ledger.jsonl").read_text()
    saved = checkpoint.load(folder)
    assert saved is not None
    assert saved.epoch == 1
    result = answer(train.main, "default", "--data", release / "clips.h5", "--out", folder, *TRAIN)
    assert result.returncode == 0, result.stderr
    assert [line["epoch"] for line in Run(folder).ledger] == [1, 2, 3]
    assert (folder / "ledger.jsonl").read_text().startswith(first)


def test_models_and_ensembles_answer(release: Path) -> None:
    """The model folder as the run that it was made of."""
    shared, own = predict.load(release / "model", CPU), predict.load(release / "runs" / "finished", CPU)
    states = [predictor.networks[0].model.state_dict() for predictor in (shared, own)]
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    assert len(ensemble.read(release / "together.json")["weights"]) == 2


@pytest.mark.slow
def test_a_study_has_nothing_left_to_train(release: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command gives the same table."""
    monkeypatch.chdir(release)
    before = json.loads((release / "study" / "results.json").read_text())["arms"]
    (release / "study" / "results.json").unlink()
    result = answer(study.main, "--data", "clips.h5", "--out", "study", "--arms", "arms.toml", *STUDY)
    assert result.returncode == 0, result.stderr
    assert json.loads((release / "study" / "results.json").read_text())["arms"] == before


@pytest.mark.parametrize("part", ["config.json", "data.json", "summary.json", "ledger.jsonl"])
def test_an_edited_part_of_a_release_is_named(release: Path, answer: Answer, part: str, tmp_path: Path) -> None:
    """Negative control: what a release left is looked at, not only opened."""
    folder = release / "runs" / "finished"
    content = (folder / part).read_bytes()
    digit = max(content.rfind(digit) for digit in (b"1", b"2", b"3"))
    (folder / part).write_bytes(content[:digit] + b"7" + content[digit + 1 :])
    result = answer(page.main, folder, "--out", tmp_path / "page.html")
    assert (result.returncode, part in result.stderr) == (6, True), result.stderr


def test_files_of_a_later_version_are_rejected_by_name(release: Path) -> None:
    """What comes from, what is needed: the schema of the file and those that this version reads."""
    with h5py.File(release / "clips.h5", "r+") as opened:
        opened.attrs["schema"] = np.bytes_("skelnorm/9")
    with pytest.raises(IntegrityError, match=r"clips.h5: schema is .*skelnorm/9.*, not .* or .*build it again"):
        open_file(release / "clips.h5")


def test_a_release_is_small_and_names_no_place(release: Path) -> None:
    """Under 300 kB each."""
    found = [path for path in release.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in found) < 300_000
    assert not [path for path in found if b"/work/" in path.read_bytes() or b"/home/" in path.read_bytes()]

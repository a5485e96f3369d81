"""run_folder.py: a run finds its data, takes no other file for them, and reads no more than it is asked for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from pipeline import train
from pipeline.config import from_dict
from pipeline.doctor.patient import diagnose_run
from pipeline.run_folder import Metadata, Run, totals, uneven
from preprocessing import files, provenance
from preprocessing.hdf5 import open_file
from tests.conftest import write_file
from tests.pipeline.conftest import SMALL, made_old

CPU = torch.device("cpu")


@pytest.fixture
def work(runs: Path, data_file: Path, tmp_path: Path) -> Path:
    """A folder with the data, and in it a run that was trained on them."""
    (tmp_path / "work").mkdir()
    shutil.copyfile(data_file, tmp_path / "work" / "data.h5")
    run = tmp_path / "work" / "runs" / "none"
    shutil.copytree(runs / "none", run)
    settings = json.loads((run / "config.json").read_text())
    settings |= {"data": str(tmp_path / "work" / "data.h5"), "out": str(run)}
    (run / "config.json").write_text(json.dumps(settings))
    return tmp_path / "work"


def test_a_run_names_absolute_paths(runs: Path, data_file: Path) -> None:
    """However its command named them."""
    assert Run(runs / "none").data_path == data_file.resolve()
    assert Path(Run(runs / "none").stored["out"]) == (runs / "none").resolve()


def test_a_run_and_its_data_moved_together_find_each_other(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, through a link as well; the clips are those of the file."""
    moved = work.rename(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(moved / "runs")
    monkeypatch.chdir(moved / "runs" / "none")
    for folder in (moved / "runs" / "none", Path(), tmp_path / "link" / "none"):
        assert Run(folder).data.path == moved / "data.h5"
    run = Run(Path(), CPU)
    assert run.name == "none"
    assert run.config.data == moved / "data.h5"
    assert len(run.clips.names) == len(open_file(moved / "data.h5").clips["frames"])


def test_a_file_in_its_old_place_is_taken_before_one_beside(work: Path, tmp_path: Path) -> None:
    """A copy of both trains on the file that the settings name."""
    shutil.copytree(work, tmp_path / "copy")
    assert Run(tmp_path / "copy" / "runs" / "none").data_path == work / "data.h5"


def test_missing_data_are_named_with_the_remedy(work: Path) -> None:
    """Both remedies hold: the file comes back, or the settings learn its new place."""
    run = work / "runs" / "none"
    (work / "data.h5").rename(work / "other.h5")
    with pytest.raises(ValueError, match=r"data.h5, which is missing; put it back, or write its new place into"):
        _ = Run(run).data
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"data": str(work / "other.h5")}))
    assert Run(run).data.path == work / "other.h5"


def test_another_file_in_its_place_is_refused(work: Path) -> None:
    """Its content counts, not its name."""
    os.replace(write_file(work / "new.h5", seed=1), work / "data.h5")
    with pytest.raises(ValueError, match=r"data.h5 is not the file that .*none was trained on; put that one back"):
        _ = Run(work / "runs" / "none").data


def test_damaged_data_are_refused_unless_the_check_is_skipped(work: Path) -> None:
    """By the sha256 of the arrays; `fast_start` reads the header alone."""
    content = bytearray((work / "data.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (work / "data.h5").write_bytes(content)
    with pytest.raises(files.IntegrityError):
        _ = Run(work / "runs" / "none").data
    assert Run(work / "runs" / "none", fast_start=True).data.path == work / "data.h5"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.config, "is not a run folder .no config.json.; make one with python -m pipeline.train"),
        (lambda run: run.metadata, "is not a run folder"),
        (lambda run: run.network(), "is not a run folder"),
        (lambda run: run.summary, "is not a run folder"),
    ],
)
def test_an_empty_folder_gets_words(ask, message: str, tmp_path: Path) -> None:  # noqa: ANN001
    """And nothing is there: no ledger, no diagnosis, no checkpoint."""
    with pytest.raises(ValueError, match=message):
        ask(Run(tmp_path))
    assert (Run(tmp_path).ledger, Run(tmp_path).doctor, Run(tmp_path).pointer) == ([], None, {})
    assert Run(tmp_path).checkpoint is None


def test_metadata_are_those_of_the_file(runs: Path, data_file: Path) -> None:
    """Written when the folder was claimed, and read back equal."""
    file = open_file(data_file)
    metadata = Run(runs / "none").metadata
    assert metadata == Metadata.of(file)
    assert (metadata.joint_names, metadata.class_names, metadata.recipe) == (
        file.joint_names, file.class_names, file.recipe,
    )  # fmt: skip
    assert [list(bone) for bone in metadata.bones] == file.bones.tolist()
    assert metadata.content_sha256 == Run(runs / "none").data_sha256 == file.content_sha256


def test_the_network_of_an_older_run_without_metadata_is_built_from_its_data(runs: Path, tmp_path: Path) -> None:
    """And has the same weights; a device is asked for nothing else."""
    shutil.copytree(runs / "bn-loop", tmp_path / "old")
    (made_old(tmp_path / "old") / "data.json").unlink()
    old, new = Run(tmp_path / "old", CPU).network().state_dict(), Run(runs / "bn-loop", CPU).network().state_dict()
    assert all(torch.equal(old[name], x) for name, x in new.items())


def test_building_the_network_leaves_the_random_state(runs: Path) -> None:
    """A caller's own draws do not depend on it."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Run(runs / "none", CPU).network()
    assert torch.equal(torch.rand(2), expected)


def test_a_diagnosis_opens_the_data_once_and_makes_no_optimizer(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs the columns of the clips, the clips and the hash; and the groups of an optimizer, not its state."""
    opened, made = [], []
    monkeypatch.setattr(h5py.File, "__init__", spy(h5py.File.__init__, opened))
    monkeypatch.setattr(torch.optim.Optimizer, "__init__", spy(torch.optim.Optimizer.__init__, made))
    diagnosis, split = diagnose_run(runs / "bn-loop", "auto")
    assert (split, diagnosis.causes[0].check) == ("val", "reuse")
    assert ([one for one, *_ in opened if isinstance(one, Path)], made) == ([Run(runs / "bn-loop").data_path], [])


def spy(plain, calls: list):  # noqa: ANN001, ANN201
    """The function, which notes that it was called."""

    def noted(*words, **more):  # noqa: ANN002, ANN003, ANN202
        calls.append(words[1:])
        return plain(*words, **more)

    return noted


def test_looking_at_a_run_loads_no_torch(runs: Path) -> None:
    """Figures, metadata and the data file's columns: a page is there in no time."""
    code = (
        "import sys; from pipeline.run_folder import Run; run = Run(sys.argv[1], fast_start=True);"
        "run.summary, run.ledger, run.doctor, run.metadata, run.data.clips, run.pointer;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(runs / "none")], check=True, timeout=60)


def test_a_run_that_has_just_begun_says_what_it_lacks(runs: Path, tmp_path: Path) -> None:
    """Settings alone: no checkpoint and no figures yet."""
    shutil.copyfile(runs / "none" / "config.json", tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"is not finished \(no summary.json\); the same python -m pipeline.train"):
        _ = Run(tmp_path).summary
    with pytest.raises(ValueError, match="has no checkpoint yet; run python -m pipeline.train again to resume it"):
        _ = Run(tmp_path).weights


def test_the_mean_over_classes_is_shown_where_it_differs() -> None:
    """In brackets; not where it is top-1 again, nor in summaries without it."""
    assert uneven({"top1": 0.5, "mean_class": 0.25}) == " (mean class 25.0 %)"
    assert uneven({"top1": 0.5, "mean_class": 0.5}) == uneven({"top1": 0.5}) == ""


def test_totals_are_those_of_all_epochs() -> None:
    """Seconds add up, speeds are averaged, the training accuracy is the last one."""
    lines = [
        {"train": {"top1": 0.5}, "seconds": 2.0, "clips_per_second": 10.0},
        {"train": {"top1": 0.75}, "seconds": 1.0, "clips_per_second": 30.0},
    ]
    assert totals(lines) == {"train": {"top1": 0.75}, "seconds": 3.0, "clips_per_second": 20.0}
    assert totals([]) == {}


def test_the_diagnosis_comes_back(tmp_path: Path) -> None:
    """As it was written; so do the clips of a batch that was not finite."""
    run = Run(tmp_path)
    run.write_doctor({"verdict": "healthy"})
    run.write_non_finite(3, ["a", "b"])
    assert run.doctor == {"verdict": "healthy", "provenance": provenance.record()}
    assert json.loads((tmp_path / "nonfinite.json").read_text()) == {"epoch": 3, "clips": ["a", "b"]}


def test_a_claimed_folder_may_change_what_decides_no_number(runs: Path, tmp_path: Path, data_file: Path) -> None:
    """Ranks, tracking, paths and the check of the data; another seed is rejected with both values."""
    shutil.copytree(runs / "none", tmp_path / "run")
    stored = {key: value for key, value in Run(runs / "none").stored.items() if key != "data_sha256"}
    free = {"nproc": 2, "wandb": "offline", "fast_start": True, "out": str(tmp_path / "run")}
    assert Run.claim(from_dict(stored | free)).config.nproc == 2
    assert Run(tmp_path / "run").stored["fast_start"] is True
    with pytest.raises(ValueError, match=r"other settings \(train.seed 0 there, 1 here\)"):
        Run.claim(from_dict(stored | free | {"train": stored["train"] | {"seed": 1}}))


def test_more_epochs_continue_a_finished_run(tmp_path: Path, data_file: Path) -> None:
    """With a constant rate, 2 and then 4 epochs are the 4 epochs of one training; fewer epochs are rejected."""

    def trained(name: str, epochs: int) -> Run:
        values = {"data": data_file, "out": tmp_path / name, **SMALL}
        config = from_dict(values | {"train": SMALL["train"] | {"epochs": epochs, "eval_every": 2}})
        Run.claim(config)
        train.run(config)
        return Run(config.out, torch.device("cpu"))

    first = trained("grown", 2)
    first.write_doctor({"verdict": "of two epochs"})
    grown, whole = trained("grown", 4), trained("whole", 4)
    assert all(torch.equal(grown.weights[name], value) for name, value in whole.weights.items())
    assert grown.summary["accuracies"] == whole.summary["accuracies"]
    assert [line["epoch"] for line in grown.ledger] == [1, 2, 3, 4]
    assert grown.raised == [{"at": 2, "from": 2, "to": 4}]
    assert grown.config.train.epochs == 4
    assert grown.doctor is None  # it was about other weights
    with pytest.raises(ValueError, match="train.epochs 4 there, 2 here"):
        trained("grown", 2)
    assert trained("grown", 4).raised == grown.raised

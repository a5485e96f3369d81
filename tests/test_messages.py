"""A user's mistakes: each gets one line that names the thing, what is allowed or found, and the remedy."""

import importlib
import shutil
from pathlib import Path

import pytest

from tests.conftest import Answer, write_file
from tests.site.mistakes import row

PAGE = Path(__file__).parent / "bench" / "results" / "mistakes.md"

TRAIN = "pipeline.train default --data a.h5 --wandb off --out r"

# Command -> part of its one line. a.h5 is a data file, raw a folder of recordings, file a text.
MISTAKES = {
    "pipeline.train": "name a preset first: python -m pipeline.train default --data FILE.h5 --out RUN",
    "pipeline.train --hepl": "--hepl is unknown; did you mean --help? python -m pipeline.train --help lists what is",
    "pipeline.train defalt": "no preset 'defalt' (did you mean default?); choose one of default, demo",
    "pipeline.train mine.toml": "mine.toml does not exist: name a preset (default, demo, ",
    "pipeline.train file.toml": "file.toml is not a TOML file: ",
    "pipeline.train default": "--data and --out are missing. python -m pipeline.train default --help lists what is",
    "pipeline.train default --data no.h5 --out r": "no.h5 does not exist; build it with python -m pre",
    "pipeline.train default --data raw --out r": "--data raw is a folder: must be an HDF5 file. Build one with",
    "pipeline.train default --data file --out r --wandb off": "file signature not found",
    "pipeline.train default --data a.h5 --out raw": "--out raw holds other files (S001C001P001R001A001.skeleton)",
    "pipeline.train default --data a.h5 --out file": "--out file is a file; a run makes a folder",
    f"{TRAIN} --trian.epochs 3": "--trian.epochs is unknown; did you mean --train.epochs?",
    f"{TRAIN} --momentum 0.1": "--momentum is unknown; did you mean --norm.momentum?",
    f"{TRAIN} --norm.kind batch": "--norm.kind 'batch' is unknown: must be one of 'none', 'bn', ",
    f"{TRAIN} --norm.persons mask": "'per_person'; did you mean masked?",
    f"{TRAIN} --model ctrgnc": "did you mean ctrgcn?",
    f"{TRAIN} --input.stream bones": "or join several: joint+bone; did you mean bone?",
    f"{TRAIN} --input.protocol xsubb": "a.h5 has no protocol 'xsubb'; it has xsub; did you mean xsub?",
    f"{TRAIN} --epochs 0": "train.epochs 0 is too small: must be at least 1",
    f"{TRAIN} --epochs many": "--train.epochs 'many' is not a whole number. python -m pipeline.train default --help",
    f"{TRAIN} --lr small": "--optim.lr 'small' is not a number. python -m pipeline.train default --help lists",
    f"{TRAIN} --train.compile yes": "'yes' is one word too many.",
    f"{TRAIN} --init nope": "nope is not a run folder (no config.json); make one with python -m pipeline.train",
    f"{TRAIN} --init r": "--init r is the run folder --out: choose another --out for the fine-tuned run",
    "pipeline.doctor.__main__": "run is missing. python -m pipeline.doctor --help lists what is allowed.",
    "pipeline.doctor.__main__ raw": "raw is not a run folder (no config.json); make one with python -m pipeline.train",
    "pipeline.doctor.__main__ raw --split tst": "--split 'tst' is unknown: must be one of 'auto', 'val', 'test'; did",
    "pipeline.doctor.__main__ raw --hmtl x.html": "--hmtl is unknown; did you mean --html?",
    "pipeline.doctor.__main__ raw --html x.txt": "--html x.txt must end in .html",
    "pipeline.doctor.__main__ raw --out x": "--out is the folder of the repaired run: add --fix",
    "pipeline.predict raw": "name recordings to answer, or --onnx PATH: python -m pipeline.predict RUN CLIP.skeleton",
    "pipeline.predict raw x.skeleton": "raw is not a run folder (no config.json)",
    "pipeline.evaluate raw --data no.h5": "--data no.h5 is not a file: must be an HDF5 file. Build one with",
    "pipeline.page --out p.html": "No run to show: name at least one run folder.",
    "pipeline.page raw --html p.txt": "--out p.txt must end in .html",
    "pipeline.ensemble raw": "an ensemble needs two runs or more: python -m pipeline.ensemble RUN RUN",
    "pipeline.preset_list x": "'x' is one word too many: skelnorm presets takes no arguments.",
    "tuning.study --data a.h5 --out s --arms nrms": "arms 'nrms' are unknown (did you mean norms?): choose one of",
    "tuning.train default --data a.h5 --out r --dry-run": "--dry-run is unknown. python -m tuning.train default --help",
    "tuning.train default --data a.h5 --out r --nproc 2": "--nproc 2 is for one machine: use --nodes and",
    "tuning.search --data no.h5 --out s": "no.h5 does not exist; build it with python -m pre",
    "tuning.search --data a.h5 --out s --trails 3": "--trails is unknown; did you mean --trials?",
    "tuning.search --data a.h5 --out s --budget soon": "--budget 'soon' is an invalid duration: write it as 90s",
    "tuning.search --data a.h5 --out s --preset sbuu": "no preset 'sbuu' (did you mean sbu?)",
    "tuning.search --data a.h5 --out s --space no.toml": "--space no.toml does not exist: must be a TOML file.",
    "preprocessing.build --out b.h5": "no SOURCE given; name a folder, a zip or a file of recordings",
    "preprocessing.build no --out b.h5": "no does not exist; name a folder, a zip or a file of recordings",
    "preprocessing.build raw --out b.txt": "--out b.txt must end in .h5",
    "preprocessing.build raw --out b.h5 --recipe exct": "recipe 'exct' is unknown; did you mean exact?",
    "preprocessing.build raw --out b.h5 --format skelton": "--format 'skelton' is unknown; did you mean skeletons?",
    "preprocessing.build raw --out b.h5 --engine thread": "one of processes, threads, ray; did you mean threads?",
    "preprocessing.build raw --out b.h5 --add yw": "--add 'yw' is unknown; choose from ",
    "preprocessing.build raw --out b.h5 --workers 0": "--workers 0 is too small: must be at least 1",
    "preprocessing.verify no.h5": "no.h5 does not exist; make it with python -m preprocessing.build",
    "preprocessing.export a.h5 --format dnse --out x": "must be one of 'dense', 'ctr', 'pyskl'; did you mean dense?",
    "preprocessing.view a.h5 --clip no --out v.html": "clip 'no' is not in a.h5. Its manifest lists rejected clips",
    "preprocessing.synthetic raw": "raw is not an empty folder; name another or delete it",
    "preprocessing.completion bsh": "'bsh' is not a shell: must be bash, zsh, fish; did you mean bash?",
}  # fmt: skip


def prepare(folder: Path, data_file: Path | None = None) -> None:
    """Fill a working folder with a data file, recordings and other files."""
    if data_file is None:
        write_file(folder / "a.h5")
    else:
        shutil.copyfile(data_file, folder / "a.h5")
    (folder / "raw").mkdir()
    (folder / "raw" / "S001C001P001R001A001.skeleton").write_text("x")
    (folder / "file").write_text("x")
    (folder / "file.toml").write_text("[x")


@pytest.fixture
def folder(data_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command."""
    prepare(tmp_path, data_file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(command: str, folder: Path, answer: Answer) -> None:
    module, *words = command.split()
    before = sorted(folder.rglob("*"))
    done = answer(importlib.import_module(module).main, *words)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in (2, 6)
    assert len(lines) == 1, done.stderr
    assert MISTAKES[command] in lines[0]
    assert row(command, lines[0]) in PAGE.read_text().splitlines(), "python tests/site/mistakes.py writes the page"
    assert done.stdout == ""
    made = {path.relative_to(folder).parts[0] for path in set(folder.rglob("*")) - set(before)}
    assert made <= {"r", "s"}, "beside a run or a study folder that the corrected command takes"

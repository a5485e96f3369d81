"""The data file under a training: whatever happens to it, the training ends with exit 6 and no other weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import integrity, train, training
from pipeline.config import Config, from_dict
from pipeline.run_folder import Run
from preprocessing import files
from preprocessing.hdf5 import open_file
from tests.conftest import write_file
from tests.pipeline.conftest import SMALL

CPU = torch.device("cpu")


def settings(data: Path, out: Path, epochs: int) -> Config:
    return from_dict({"data": data, "out": out, **SMALL, "train": SMALL["train"] | {"epochs": epochs}})


def train_beside(config: Config, change: Callable[[], None], after: int = 2) -> None:
    """Train, and change something once the checkpoint of an epoch is there."""

    def watch() -> None:
        while not ended.is_set():
            if integrity.read_pointer(config.out).get("epoch", 0) >= after:
                change()
                return
            time.sleep(0.001)

    Run.claim(config)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        train.run(config)
    finally:
        ended.set()
        thread.join()


ended = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ended.clear()


@pytest.mark.slow
def test_a_file_that_is_replaced_ends_the_training_and_spoils_no_weights(tmp_path: Path) -> None:
    """With the file back in its place, the run ends with the weights of an undisturbed one."""
    data = write_file(tmp_path / "a.h5", clips=96)
    other, kept = write_file(tmp_path / "b.h5", clips=96, seed=1), tmp_path / "kept.h5"
    config = settings(data, tmp_path / "run", 10)

    def replace() -> None:
        os.link(data, kept)
        os.replace(other, data)

    with pytest.raises(files.IntegrityError, match=r"a.h5 was replaced by another file .* Put the file back"):
        train_beside(config, replace)
    assert 2 <= Run(config.out).pointer["epoch"] < 10  # the fault happened in the middle
    assert not Run(config.out).finished
    os.replace(kept, data)
    Run.claim(config)
    train.run(config)
    whole = settings(data, tmp_path / "whole", 10)
    Run.claim(whole)
    train.run(whole)
    mine, theirs = Run(config.out, CPU).weights, Run(whole.out, CPU).weights
    assert all(torch.equal(mine[name], x) for name, x in theirs.items())


def overwrite(path: Path) -> None:
    """The values of some frames in place, and the time of modification set back."""
    before, file = path.stat(), open_file(path)
    content, rows = path.read_bytes(), file.joints_RV3.tobytes()
    at = content.index(rows[:64])
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(bytes(len(rows) // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (overwrite, "has other content than when it was opened"),
        (lambda path: path.unlink(), "cannot be read any more"),
        (lambda path: path.write_bytes(path.read_bytes()), "was written to|was truncated"),
    ],
)
def test_other_changes_end_the_training(tmp_path: Path, change: Callable[[Path], None], words: str) -> None:
    data = write_file(tmp_path / "a.h5", clips=96)
    config = settings(data, tmp_path / "run", 200)
    with pytest.raises(files.IntegrityError, match=words):
        train_beside(config, lambda: change(data))
    assert Run(config.out).pointer["epoch"] < 200


def test_content_that_differs_at_the_end_marks_the_checkpoint(tmp_path: Path) -> None:
    """Bits that rotted while nobody wrote: since when, nobody knows. Nothing is built on such weights."""
    data = write_file(tmp_path / "a.h5", clips=96)
    config = settings(data, tmp_path / "run", 3)
    Run.claim(config)
    folder = Run(config.out, CPU, config)
    train.run(config)
    integrity.replace(config.out, integrity.SUMMARY, None)
    file = folder.data
    assert file.identity is not None
    watch = training.watched(folder.clips)
    folder.require_content(watch)  # negative control: it is whole
    overwrite(data)
    with pytest.raises(files.IntegrityError, match="has other content than when it was opened"):
        folder.require_content(watch)
    with pytest.raises(files.IntegrityError, match="run: a.h5 changed while it was trained on. Delete the folder"):
        Run.claim(config)


COMMAND = """
import json, sys
from pipeline import train, training
sys.argv = ["train", *json.loads(sys.argv[1])]
sys.exit(train.main())
"""


def words_of(data: Path, out: Path, *more: str) -> list[str]:
    words = ["default", "--data", str(data), "--out", str(out), "--wandb", "off", "--input.frames", "16"]
    words += ["--train.batch-size", "8", "--train.epochs", "500", *more]
    return [sys.executable, "-c", COMMAND, json.dumps(words)]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_file_that_is_cut_ends_the_training_with_one_line(tmp_path: Path, ranks: int) -> None:
    """Exit 6, and not SIGBUS; one process or two ranks."""
    data = write_file(tmp_path / "a.h5", clips=96)
    words = words_of(data, tmp_path / "run", "--nproc", str(ranks))
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        wait_for_checkpoint(tmp_path / "run")
        os.truncate(data, 8192)
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 6, printed
    assert "a.h5 was truncated" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_a_deleted_lock_file_lets_no_second_training_in(tmp_path: Path) -> None:
    """Exit 2; the first goes on."""
    data = write_file(tmp_path / "a.h5", clips=96)
    words = words_of(data, tmp_path / "run")
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        wait_for_checkpoint(tmp_path / "run")
        (tmp_path / "run" / "lock").unlink()
        second = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert (second.returncode, "although its lock file is gone" in second.stderr) == (2, True), second.stderr
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def wait_for_checkpoint(run: Path) -> None:
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_fast_start_says_what_it_skips(tmp_path: Path, capfd: pytest.CaptureFixture[str], answer: Any) -> None:
    """Frames alone: damaged clips are found all the same."""
    data = write_file(tmp_path / "a.h5", clips=48)
    words = ["default", "--data", data, "--out", tmp_path / "run", "--wandb", "off", "--input.frames", "16"]
    words += ["--train.epochs", "1", "--fast-start"]
    result = answer(train.main, *words)
    assert result.returncode == 0, result.stderr
    note = f"note: --fast-start: the frames of {data} (0 MB) are not compared with their sha256; attributes, clips, bod"
    assert note in result.stderr
    damaged = Path(shutil.copyfile(data, tmp_path / "b.h5"))
    content = bytearray(damaged.read_bytes())
    content[content.index(b"clip001")] ^= 1
    damaged.write_bytes(content)
    words[2] = damaged
    result = answer(train.main, *words)
    assert (result.returncode, "clips/name does not match its sha256" in result.stderr) == (6, True)


def test_another_number_of_ranks_is_printed_and_recorded(
    tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run may have it; a finished one is only measured again."""
    run = tmp_path / "run"
    config = settings(data_file, run, 2)
    Run.claim(config)
    train.run(config)
    values = {"data": data_file, "out": run, **SMALL, "nproc": 2}
    Run.claim(from_dict(values | {"train": SMALL["train"] | {"epochs": 2}}))
    assert "note" not in capsys.readouterr().err
    Run.claim(config)
    Run.claim(from_dict(values | {"train": SMALL["train"] | {"epochs": 4}}))
    assert "was trained with --nproc 1 up to epoch 2 and resumes with 2." in capsys.readouterr().err
    assert Run(run).changes["ranks"] == [{"at": 2, "from": 1, "to": 2}]
    assert Run(run).config.nproc == 2

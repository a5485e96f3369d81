"""No damage to a data file is read as other content, ends in a foreign exception, crashes, hangs or eats memory."""

import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import h5py
import numpy as np
import pytest

from tests.preprocessing.hdf5.examples import write_to
from tests.preprocessing.hdf5.open_mutants import metadata, mutant

LIMIT = 20.0  # seconds per mutant


def outcomes(path: Path, first: int, end: int) -> Iterator[tuple[int, str, str]]:
    """(seed, outcome, detail) of each mutant; a process that crashes or hangs is started again behind the culprit."""
    program = Path(__file__).with_name("open_mutants.py")
    while first < end:
        words = [sys.executable, str(program), str(path), str(first), str(end)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            lines: queue.Queue[str] = queue.Queue()
            assert process.stdout is not None
            threading.Thread(target=_read, args=(process.stdout, lines)).start()
            how, began = "crashed", False
            try:
                while line := lines.get(timeout=LIMIT):
                    seed, outcome, *detail = line.split(maxsplit=2)
                    began, first = outcome == "begin", int(seed)
                    if not began:
                        yield first, outcome, " ".join(detail)
                        first += 1
            except queue.Empty:
                how = "hung"
                process.kill()
            code = process.wait()
        if began or (first < end and code):
            yield first, how, str(code)
            first += 1


def _read(out: IO[str], lines: "queue.Queue[str]") -> None:
    for line in out:
        lines.put(line)
    lines.put("")


def check(path: Path, first: int, count: int) -> Counter[str]:
    """Open so many mutants; fail on the first outcome that is not allowed."""
    found: Counter[str] = Counter()
    for seed, outcome, detail in outcomes(path, first, first + count):
        assert outcome in ("refused", "equal"), f"seed {seed}: {outcome} {detail}"
        assert outcome == "equal" or "build it again" in detail, f"seed {seed}: {detail}"
        found[outcome] += 1
    assert found.total() == count
    return found


def test_damaged_files_are_refused_or_equal(tmp_path: Path) -> None:
    """The damage is real: most mutants are refused."""
    found = check(write_to(tmp_path / "a.h5"), 0, 100)
    assert found["refused"] > 50


@pytest.mark.slow
def test_many_damaged_files_are_refused_or_equal(tmp_path: Path) -> None:
    found = check(write_to(tmp_path / "a.h5"), 1_000, 2_000)
    assert found["refused"] > 1_000


def test_h5py_alone_reads_damaged_frames(tmp_path: Path) -> None:
    """Negative control: without our checksums another number is read, and no error is raised."""
    path = write_to(tmp_path / "a.h5")
    with h5py.File(path, "r") as file:
        offset, before = file["frames/joints"].id.get_offset(), file["frames/joints"][()]
    content = bytearray(path.read_bytes())
    content[offset + 1] ^= 1
    path.write_bytes(content)
    with h5py.File(path, "r") as file:
        assert not np.array_equal(file["frames/joints"][()], before)


@pytest.mark.slow
def test_h5py_raises_of_several_classes_on_damaged_metadata(tmp_path: Path) -> None:
    """Negative control: what `open_file` turns into one class."""
    path, classes = write_to(tmp_path / "a.h5"), set()
    content, places = path.read_bytes(), metadata(path)
    for seed in range(60):
        path.write_bytes(mutant(content, places, seed))
        try:
            with h5py.File(path, "r") as file:
                file.visititems(lambda name, item: None)
                [*file["clips"].items()]
        except Exception as error:
            classes.add(type(error))
    assert len(classes) > 2, classes

"""HDF5 made to do harm is rejected in a second, with little memory (F11); one open file in many processes (F12)."""

import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing.files import IntegrityError
from preprocessing.hdf5 import clip_rows, open_file, verify
from tests.preprocessing.hdf5.examples import T, write_to
from tests.processes import forked, resident

PRESENT, JOINTS = "frames/present", "frames/joints"
MEMORY = 300 << 20


def replaced(name: str, make: Callable[[h5py.File], object]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        made = make(file)
        if made is not None:
            file[name] = made

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3 * T,), dtype=bool)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(3 * T,))
    file.create_virtual_dataset(PRESENT, layout)


def bomb(file: h5py.File) -> None:
    file.create_dataset(JOINTS, (1 << 40, 25, 3), np.float32, chunks=(1 << 10, 25, 3))


def compressed(file: h5py.File) -> None:
    file.create_dataset(
        JOINTS, data=np.zeros((1 << 16, 25, 3), np.float32), compression="gzip", chunks=(1 << 14, 25, 3)
    )


def cycle(file: h5py.File) -> None:
    file["frames/again"] = file["/"]


def attribute(file: h5py.File) -> None:
    file.attrs["dataset"] = "x" * 60_000
    for number in range(2000):
        file.attrs[f"more {number}"] = "x" * 30_000


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "external storage": replaced(
        PRESENT,
        lambda file: file.create_dataset(PRESENT, (3 * T,), bool, external=[("/etc/hostname", 0, 3 * T)]) and None,
    ),
    "virtual": replaced(PRESENT, virtual),
    "soft link": replaced(PRESENT, lambda file: h5py.SoftLink("/clips/name")),
    "external link": replaced(PRESENT, lambda file: h5py.ExternalLink("/etc/hostname", "/x")),
    "shape bomb": replaced(JOINTS, bomb),
    "gzip bomb": replaced(JOINTS, compressed),
    "texts of any length": replaced(
        "clips/name", lambda file: file.create_dataset("clips/name", data=["a"] * 3, dtype=h5py.string_dtype()) and None
    ),
    "numbers of any length": replaced(
        JOINTS, lambda file: file.create_dataset(JOINTS, (3,), h5py.vlen_dtype(np.float32)) and None
    ),
    "references": replaced(JOINTS, lambda file: file.create_dataset(JOINTS, (3,), h5py.ref_dtype) and None),
    "cyclic group": cycle,
    "huge attributes": attribute,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_to(tmp_path / "a.h5")


def rejected(path: Path) -> int:
    """3 where opening and verifying reject the file, within a second each and within the memory; else 1."""
    limit = resident() + MEMORY
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    began = time.monotonic()
    faults = verify(path)
    try:
        open_file(path)
    except IntegrityError:
        return 3 if faults and time.monotonic() - began < 2 and resident() < limit else 1
    return 1


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_hdf5_is_rejected_in_a_second_with_little_memory(file: Path, kind: str) -> None:
    with h5py.File(file, "r+") as opened:
        HOSTILE[kind](opened)
    assert forked(lambda: rejected(file)) == 3


def test_h5py_alone_reads_another_file_and_takes_the_memory(file: Path) -> None:
    """Control: the links lead out, and the arrays are as large as they say; an untouched file is not rejected."""
    assert forked(lambda: rejected(file)) == 1
    outside = file.with_name("secret")
    outside.write_bytes(b"\1" * 3 * T)
    with h5py.File(file, "r+") as opened:
        del opened[PRESENT]
        opened.create_dataset(PRESENT, (3 * T,), bool, external=[(str(outside), 0, 3 * T)])
    with h5py.File(file, "r") as opened:
        assert opened[PRESENT][:].all()


def test_one_open_file_is_read_by_forks_and_threads_alike(tmp_path: Path) -> None:
    """0, 1, 2 and 4 of each, at once, three times over: every clip is the one that a direct read gives."""
    path = write_to(tmp_path / "a.h5")
    shared = open_file(path)
    clips = range(len(shared.clips["name"]))
    expected = [clip_rows(open_file(path), clip).copy() for clip in clips]

    def differing() -> int:
        return sum(not np.array_equal(clip_rows(shared, clip), expected[clip]) for _ in range(3) for clip in clips)

    assert differing() == 0
    for count in (1, 2, 4):
        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(lambda _: forked(differing), range(count))) == [0] * count
            assert list(pool.map(lambda _: differing(), range(count))) == [0] * count


def test_a_file_position_is_shared_by_forks(tmp_path: Path) -> None:
    """Control: reading through an inherited position, a fork moves it for its parent; rows are mapped instead."""
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    descriptor = os.open(path, os.O_RDONLY)
    assert forked(lambda: len(os.read(descriptor, 10)) - 10) == 0
    assert os.read(descriptor, 1) == b"\x0a"
    os.close(descriptor)

"""A small data file for every test that trains (four classes, one or two bodies, six subjects); real recordings."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# For this process and all that it starts, before torch reads it. Sums come out the same each time, and no threads spin
# while they wait for one another: beside a training, tests with two threads took more than eight times as long.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts background jobs with SIGINT ignored, and what they start inherits that. Tests interrupt commands.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from preprocessing.hdf5 import Contents, Spool, write  # noqa: E402
from tests.wandb_stub import Stub  # noqa: E402

CLASSES, SUBJECTS, JOINTS = 4, 6, 10
Answer = Callable[..., subprocess.CompletedProcess[str]]
Body = Callable[[np.random.Generator, int, int, int], np.ndarray]  # rng, label, frames, subject -> (T, V, 3) metres


def moving_body(rng: np.random.Generator, label: int, frames: int, subject: int) -> np.ndarray:
    """(T, V, 3) metres: each class swings another joint; place, size and noise differ by clip."""
    rest = np.stack([np.zeros(JOINTS), np.linspace(-0.9, 0.9, JOINTS), np.zeros(JOINTS)], axis=1)
    swing = np.zeros((frames, JOINTS, 3))
    swing[:, 2 + label, 0] = 0.1 * np.sin(np.linspace(0, 6, frames) + rng.uniform(0, 1))
    body = rng.uniform(0.8, 1.2) * (rest + swing) + rng.normal(0, 0.04, (frames, JOINTS, 3))
    return body.astype(np.float32)


def write_file(
    path: Path,
    clips: int = 240,
    seed: int = 0,
    val_subjects: tuple[int, ...] = (5,),
    test_subjects: tuple[int, ...] = (2, 4, 6),
    body: Body = moving_body,
    protocols: tuple[str, ...] = ("xsub",),
    gaps: float = 0.0,
) -> Path:
    """A file of the schema; every fourth class has two bodies; train subjects are 1 and 3; `gaps`: share of joints."""
    rng = np.random.default_rng(seed)
    label = np.arange(clips) % CLASSES
    subject = np.arange(clips) // CLASSES % SUBJECTS + 1
    frames = rng.integers(12, 30, clips)
    bodies = np.where(label == CLASSES - 1, 2, 1)
    owner, slot, start = [], [], []
    with Spool(path.parent / f"{path.stem}.spool", JOINTS) as spool:
        for clip in range(clips):
            for m in range(bodies[clip]):
                owner.append(clip)
                slot.append(m)
                present = np.ones(frames[clip], dtype=bool)
                if m:
                    present[:3] = False
                rows = body(rng, int(label[clip]), int(frames[clip]), int(subject[clip])) * present[:, None, None]
                found = rng.random(rows.shape[:2]) >= gaps if gaps else np.ones(rows.shape[:2], bool)
                start.append(spool.append(rows * found[..., None], present, found & present[:, None] if gaps else None))
        zero = np.zeros(clips, dtype=np.int64)
        columns = {
            "name": np.array([f"clip{i:03d}" for i in range(clips)]),
            "label": label.astype(np.int64),
            "setup": zero,
            "camera": zero,
            "subject": subject.astype(np.int64),
            "replication": zero,
            "frames": frames.astype(np.int64),
            "first_body": np.concatenate([[0], np.cumsum(bodies)[:-1]]).astype(np.int64),
            "bodies": bodies.astype(np.int64),
        }
        who = {"train": (1, 3), "val": val_subjects, "test": test_subjects}
        contents = Contents(
            dataset="swinging joints",
            recipe={"stages": []},
            joint_names=[f"joint{i}" for i in range(JOINTS)],
            bones=np.array([[i, i + 1] for i in range(JOINTS - 1)], dtype=np.int64),
            fps=30.0,
            class_names=[f"swing {i}" for i in range(CLASSES)],
            body_clip=np.array(owner, dtype=np.int64),
            body_slot=np.array(slot, dtype=np.int64),
            body_start=np.array(start, dtype=np.int64),
            clips=columns,
            splits=dict.fromkeys(
                protocols,
                {part: np.flatnonzero(np.isin(subject, w)).astype(np.int64) for part, w in who.items()},
            ),
            default_protocol=protocols[0],
        )
        write(path, contents, spool)
    return path


@pytest.fixture(scope="session", autouse=True)
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, logs and cluster address: tests see none of this machine's and leave none."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:  # a short path
        os.environ["RAY_TMPDIR"] = folder
        yield Path(folder) / "ray"
    del os.environ["RAY_TMPDIR"]


@pytest.fixture
def cluster_gone(ray_folder: Path) -> Iterator[int]:
    """The port of a cluster on this machine that was killed: Ray's file still tells of it."""
    ray_folder.mkdir(exist_ok=True)
    address = ray_folder / "ray_current_cluster"
    port = 9
    address.write_text(f"127.0.0.1:{port}")
    yield port
    address.unlink()


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data file, made once."""
    return write_file(tmp_path_factory.mktemp("data") / "small.h5")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real recordings; tests that need them skip where there are none."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SKELNORM_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real recordings: set SKELNORM_REAL_DATA to their folder")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of a few kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.getuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system can be mounted by root only")
        mounted.append(folder)
        return folder

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def full_disk(small_disk: Callable[[int], Path]) -> Path:
    """A folder in which files can be made, but nothing written."""
    folder = small_disk(64)
    with open(folder / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    return folder


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A W&B server on loopback."""
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Answer:
    """A command's `main` with these words, in this process: for mistakes, which end before a process would be loaded.

    An error that `main` does not catch, a traceback to the user, fails the test.
    """

    def call(main: Callable[[], int], *words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["python -m", *map(str, words)])
        capfd.readouterr()
        try:
            code = main()
        except SystemExit as end:  # tyro's
            code = end.code if isinstance(end.code, int) else 1
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    return call

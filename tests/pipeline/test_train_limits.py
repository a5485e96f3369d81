"""Trainings under limits of the system, in other locales and times, and for long: the same weights, or one clear line.

Controls: each test of a limit also runs into it (`hit`), so that the limit is known to hold.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from tests.processes import resident

ROOT = Path(__file__).parents[2]
QUICK = ["--wandb", "off", "--train.batch-size", "16", "--input.frames", "16", "--train.no-self-test"]
pytestmark = pytest.mark.slow


def train(
    data: Path,
    run: Path,
    *more: str,
    limit: Callable[[], None] | None = None,
    prefix: tuple[str, ...] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """A training of three epochs, unless told otherwise."""
    words = ["default", "--data", str(data), "--out", str(run), "--train.epochs", "3", *QUICK, *more]
    return subprocess.run(
        [*prefix, sys.executable, "-m", "pipeline.train", *words], capture_output=True, text=True, timeout=300,
        errors="replace", env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, preexec_fn=limit, check=False,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights at the end."""
    saved = checkpoint.load(run)
    assert saved is not None
    return saved.state["model"]


@pytest.fixture(scope="module")
def plain(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a training without any limit."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert train(data_file, run).returncode == 0
    return weights(run)


def same(run: Path, plain: dict[str, torch.Tensor]) -> bool:
    """Whether the weights are those, bit for bit."""
    return all(torch.equal(x, plain[name]) for name, x in weights(run).items())


# A clock that jumps by a day, back and forth, at each look.
CLOCK = """
import itertools, time
honest, days = time.time, itertools.cycle([0, 86400, -86400])
time.time = lambda: honest() + next(days)
open({seen!r}, "a").close()
"""


def test_a_clock_that_jumps_changes_nothing(data_file: Path, tmp_path: Path, plain: dict[str, torch.Tensor]) -> None:
    """Durations stay right as well: they are taken from another clock."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(seen=str(tmp_path / "seen")))
    result = train(data_file, tmp_path / "run", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "seen").exists()
    assert same(tmp_path / "run", plain)
    assert 0 < json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"] < 300


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"},
        {"TZ": "Pacific/Apia"},
    ],
    ids=["C", "ascii", "tr_TR", "de_DE", "Apia"],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_locales_change_nothing(
    data_file: Path, tmp_path: Path, plain: dict[str, torch.Tensor], variables: dict[str, str], ranks: int
) -> None:
    """The summary, which has a dot that ASCII lacks, is printed, and the run is finished."""
    result = train(data_file, tmp_path / "run", "--nproc", str(ranks), **variables)
    assert result.returncode == 0, result.stderr
    assert "test " in result.stdout
    assert (tmp_path / "run" / "summary.json").exists()
    assert ranks > 1 or same(tmp_path / "run", plain)


def files(count: int) -> Callable[[], None]:
    """Limit the number of open files."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


@pytest.mark.parametrize("ranks", [1, 2])
def test_few_descriptors(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """64 are enough; 12 end it with one line (control)."""
    enough = train(data_file, tmp_path / "enough", "--nproc", str(ranks), limit=files(64))
    assert enough.returncode == 0, enough.stderr
    hit = train(data_file, tmp_path / "hit", "--nproc", str(ranks), limit=files(12))
    assert hit.returncode != 0
    assert "Too many open files" in hit.stderr


def size(count: int) -> Callable[[], None]:
    """Limit the size of each file that is written, as a quota does in the end."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_limit_of_file_sizes_is_a_full_disk(data_file: Path, tmp_path: Path, ranks: int) -> None:
    """1 MB, where a checkpoint has about 3: exit 7, the path and what it needs; without the limit it ends with 0."""
    hit = train(data_file, tmp_path / "run", "--nproc", str(ranks), limit=size(1_000_000))
    assert hit.returncode == 7, hit.stderr
    (line,) = [line for line in hit.stderr.splitlines() if "error" in line]
    assert f"no space left for {tmp_path}/run/checkpoints/epoch-0001.pt" in line
    assert " MB needed, " in line
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert train(data_file, tmp_path / "run", "--nproc", str(ranks)).returncode == 0


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_tiny_shm(data_file: Path, tmp_path: Path) -> None:
    """Two ranks with 64 kB of /dev/shm, filled up: torch's ranks do not share tensors there."""
    fill = "mount -t tmpfs -o size=64k tmpfs /dev/shm && head -c 64k /dev/zero > /dev/shm/x"
    script = f'{fill}; df --output=avail /dev/shm | tail -1 >&2; exec "$@"'
    result = train(data_file, tmp_path / "run", "--nproc", "2", prefix=("unshare", "--mount", "sh", "-c", script, "sh"))
    assert result.returncode == 0, result.stderr
    assert result.stderr.split()[0] == "0"


@pytest.mark.parametrize("umask", [0o077, 0o777])
def test_umask(data_file: Path, tmp_path: Path, umask: int) -> None:
    """What is written can be read by the run itself: it works, or ends with one line, as another user than root."""
    result = train(data_file, tmp_path / "run", limit=lambda: os.umask(umask) and None)  # as root
    assert result.returncode in (0, 2), result.stderr
    assert "Traceback" not in result.stderr


LEAK = """
import os, runpy
from pipeline.tracking.ledger import RunLedger
kept, write = [], RunLedger.write
RunLedger.write = lambda ledger, record: (kept.append((os.dup(1), os.urandom(50_000))), write(ledger, record))[1]
runpy.run_module("pipeline.train", run_name="__main__")
"""


LEAST = 5000  # bytes per step that count as a leak
WARM = 150  # epochs after which memory is measured: allocators and the monitor's first measurement have settled


def growth(data: Path, run: Path, epochs: int, *program: str) -> tuple[float, int]:
    """Bytes of memory per step, and descriptors, that a training gained after its warm-up."""
    words = ["default", "--data", str(data), "--out", str(run), "--train.epochs", str(epochs), *QUICK]
    seen: list[tuple[int, int, int]] = []  # epoch, bytes, descriptors
    with subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        while process.poll() is None:
            time.sleep(0.3)
            with contextlib.suppress(OSError):
                done = (run / "ledger.jsonl").read_bytes().count(b"\n")
                seen.append((done, resident(process.pid), len(os.listdir(f"/proc/{process.pid}/fd"))))
    assert process.returncode == 0
    warm = [entry for entry in seen if WARM <= entry[0] <= epochs - 10]
    steps = (warm[-1][0] - warm[0][0]) * 5  # 80 training clips in batches of 16
    assert steps > 4 * (epochs - WARM - 20)
    first, last = (sorted(size for _, size, _ in part)[len(part) // 2] for part in (warm[:10], warm[-10:]))
    descriptors = [count for _, _, count in warm]
    return (last - first) / steps, max(descriptors) - min(descriptors)


def test_two_thousand_steps_leak_nothing(data_file: Path, tmp_path: Path) -> None:
    """Memory, descriptors and disk after warm-up: under 5 kB per step, flat, one checkpoint.

    An epoch of 5 steps adds 5 kB: its record stays in memory. Allocators make 0.9 to 4.3 kB per step of it.
    """
    memory, descriptors = growth(data_file, tmp_path / "run", 560, "-m", "pipeline.train")
    assert memory < LEAST
    assert descriptors <= 3
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


def test_a_training_that_leaks_is_found(data_file: Path, tmp_path: Path) -> None:
    """Negative control: 50 kB and a descriptor per epoch."""
    memory, descriptors = growth(data_file, tmp_path / "run", 250, "-c", LEAK)
    assert memory > LEAST
    assert descriptors > 50

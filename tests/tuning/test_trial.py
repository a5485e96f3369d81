"""trial.py and attempt.py: a training in its own process; every failure is reported as one line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preprocessing.hdf5 import open_file
from tests.conftest import write_file
from tuning.attempt import Attempt, AttemptFailed, epoch_metrics, failure_cause
from tuning.trial import DROPPED, drop_checkpoints
from tuning.trial_spec import TrialSpec

ROOT = Path(__file__).parents[2]


def trial_spec(data: Path, read_test: bool = False, memory: float = 0.0, **more: Any) -> TrialSpec:
    """A short training; `train__epochs` stands for train.epochs."""
    settings = {"data": str(data), "input.frames": 16, "train.epochs": 2, "train.eval_every": 1, "nproc": 1}
    settings |= {"train.self_test": False, "train.batch_size": 16, "fast_start": True}
    settings |= {name.replace("__", "."): value for name, value in more.items()}
    return TrialSpec(settings, read_test, memory=memory)


def epochs(attempt: Attempt) -> list[dict[str, Any]]:
    """All epochs until it is done."""
    return list(iter(attempt.next_epoch, None))


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Any]:
    """Makes attempts in this test's folder, and ends them."""
    made: list[Attempt] = []

    def make(spec: TrialSpec, limit: float | None = 100.0, name: str = "trial") -> Attempt:
        made.append(Attempt(tmp_path / name, spec, limit))
        return made[-1]

    yield make
    for attempt in made:
        attempt.stop()


def test_each_epoch_has_a_record_and_val_is_c(data_file: Path, attempts: Any) -> None:
    """Fractions, gaps by their definition; the summary exists at the end."""
    attempt = attempts(trial_spec(data_file))
    records = epochs(attempt)
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record["val"] == record["C"]
        assert record["normalization_gap"] == record["B"] - record["A"]
        assert 0 <= record["val"] <= 1
    assert json.loads((attempt.folder / "result.json").read_text())["summary"]["accuracies"]["C"] == records[-1]["val"]


def test_a_search_never_reads_the_test_split(data_file: Path, tmp_path: Path, attempts: Any) -> None:
    """Another test split gives the same records, and none of its metrics; a trial of a study has them."""
    other = write_file(tmp_path / "other.h5", test_subjects=(2,))
    assert len(open_file(other).splits["xsub"]["test"]) < len(open_file(data_file).splits["xsub"]["test"])
    one, two = attempts(trial_spec(data_file), name="one"), attempts(trial_spec(other, read_test=True), name="two")
    assert epochs(one) == epochs(two)
    hidden, read = (json.loads((a.folder / "summary.json").read_text()) for a in (one, two))
    assert (hidden["test"], hidden["clips"]["test"]) == ({}, 0)
    assert 0 <= read["test"]["top1"] <= 1


def test_a_killed_attempt_is_named_and_the_next_one_resumes_it(data_file: Path, attempts: Any) -> None:
    """The same figures, bit for bit, as without the kill."""
    settings = trial_spec(data_file, train__epochs=6)
    killed = attempts(settings)
    first = killed.next_epoch()
    os.killpg(killed.process.pid, signal.SIGKILL)
    with pytest.raises(AttemptFailed, match=r"killed: by signal 9 \(perhaps out of memory\)"):
        epochs(killed)
    again, whole = attempts(settings), attempts(settings, name="whole")
    assert epochs(again) == epochs(whole)
    assert first in epochs_again(whole)
    lines = [json.loads(line) for line in (again.folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 7))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [True, False])
def test_the_checkpoint_is_what_a_killed_attempt_goes_on_from(data_file: Path, attempts: Any, checkpoint: bool) -> None:
    """Its first epoch is not trained again; negative control: without the checkpoint it is."""
    settings = trial_spec(data_file, train__epochs=6)
    killed = attempts(settings)
    assert killed.next_epoch()
    deadline = time.monotonic() + 60
    while not (killed.folder / "checkpoint.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.process.pid, signal.SIGKILL)
    with pytest.raises(AttemptFailed, match="killed: by signal 9"):
        epochs(killed)
    path = killed.folder / "ledger.jsonl"
    before = path.read_bytes().splitlines()[0]
    if not checkpoint:
        (killed.folder / "checkpoint.json").unlink()
        shutil.rmtree(killed.folder / "checkpoints")
    epochs(attempts(settings))
    assert (path.read_bytes().splitlines()[0] == before) is checkpoint  # it holds the seconds that the epoch took


def epochs_again(attempt: Attempt) -> list[dict[str, Any]]:
    """The epochs of a finished attempt, read again."""
    attempt.last_epoch = 0
    return epochs(attempt)


def test_attempts_are_forked_from_one_process_that_has_torch_loaded(data_file: Path, attempts: Any) -> None:
    """Otherwise each would load it, in 3 to 7 s; the server ignores a module that it cannot load."""
    running = [attempts(trial_spec(data_file, train__epochs=10_000), name=name) for name in ("one", "two")]
    assert all(attempt.next_epoch() for attempt in running)
    (server,) = {parent_of(attempt.process.pid) for attempt in running}
    assert server != os.getpid()
    assert "libtorch_cpu" in Path(f"/proc/{server}/maps").read_text()


def parent_of(pid: int) -> int:
    """Its parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_hanging_attempt_is_ended_at_its_limit(data_file: Path, attempts: Any) -> None:
    """A signal stops it, so that it hangs."""
    attempt = attempts(trial_spec(data_file, train__epochs=500))
    attempt.next_epoch()
    os.killpg(attempt.process.pid, signal.SIGSTOP)
    attempt.limit = time.monotonic() - attempt.started + 1
    with pytest.raises(AttemptFailed, match="time: not finished after"):
        epochs(attempt)
    assert attempt.process.exitcode is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"optim__lr": 1e30}, "non-finite: epoch 1: the loss is not finite on clips"),
        ({"input__frames": 4}, "settings: cnn halves frames 3 times"),
        ({"memory": 1.0, "input__frames": 4096, "train__batch_size": 80}, "memory: "),
    ],
)
def test_the_cause_of_a_failure_is_one_line(data_file: Path, attempts: Any, more: dict[str, Any], message: str) -> None:
    """Non-finite loss, wrong settings, out of memory, each one real."""
    with pytest.raises(AttemptFailed) as caught:
        epochs(attempts(trial_spec(data_file, **more)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_val_is_accuracy_c() -> None:
    """All names, with values that differ."""
    four = {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}
    line = {"epoch": 3, "accuracies": four, "train": {"top1": 0.5, "loss": 9.0}, "gap": {"normalization": 0.6}}
    expected = {"epoch": 3, "val": 0.3, "train": 0.5, **four, "normalization_gap": 0.6}
    assert epoch_metrics(line) == expected
    assert epoch_metrics(line | {"accuracies": {"A": 0.1, "B": 0.2}})["val"] is None


def test_an_unknown_exit_code_is_reported_with_the_last_line() -> None:
    """So does an empty log."""
    assert failure_cause(77, "x\nTypeError: no\n\n") == "exit code 77: TypeError: no"
    assert failure_cause(1, "") == "exit code 1: the log is empty"


@pytest.mark.slow
def test_two_ranks_train_as_one_trial(data_file: Path, attempts: Any) -> None:
    """Both are the attempt's: stopped early, as a scheduler does, none of its processes is left."""
    attempt = attempts(trial_spec(data_file, nproc=2))
    assert [record["epoch"] for record in epochs(attempt)] == [1, 2]
    assert json.loads((attempt.folder / "summary.json").read_text())["ranks"] == 2
    stopped = attempts(trial_spec(data_file, nproc=2, train__epochs=10_000), name="stopped")
    stopped.next_epoch()
    group = members(stopped.process.pid)
    assert len(group) >= 3  # the launcher and two ranks
    stopped.stop()
    deadline = time.monotonic() + 20
    while any(map(alive, group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, group))


def members(group: int) -> list[int]:
    """Pids of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
    return found


def test_an_attempt_ends_with_its_parent(data_file: Path, tmp_path: Path) -> None:
    """However the parent ends: killed, it cannot clean up."""
    spec = json.dumps(trial_spec(data_file, train__epochs=10_000).to_json())
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from tuning.attempt import Attempt\nfrom tuning.trial_spec import TrialSpec\n"
        "spec = TrialSpec.from_json(json.loads(sys.argv[2]))\n"
        "attempt = Attempt(Path(sys.argv[1]), spec, None)\nattempt.next_epoch()\n"
        "print(attempt.process.pid, flush=True)\nwhile True: attempt.next_epoch()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "trial"), spec]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("marked", [True, False], ids=["by drop_checkpoints", "by someone"])
def test_a_trial_whose_checkpoints_were_being_dropped_starts_over(
    data_file: Path, tmp_path: Path, attempts: Any, marked: bool
) -> None:
    """A kill came between the files and their pointer. Where no mark stands, they are missing for another reason."""
    before = epochs(attempts(trial_spec(data_file)))
    folder = tmp_path / "trial"
    for name in ("summary.json", "result.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints")
    if not marked:
        with pytest.raises(AttemptFailed, match=r"damaged file: .* names epoch-0002.pt, which is missing"):
            epochs(attempts(trial_spec(data_file)))
        return
    (folder / DROPPED).touch()
    assert epochs(attempts(trial_spec(data_file))) == before
    assert not (folder / DROPPED).exists()
    drop_checkpoints(folder)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(("checkpoint", DROPPED))]

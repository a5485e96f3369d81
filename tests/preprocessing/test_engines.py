"""Results come in the order of the tasks, with a bounded number in flight; workers end with the build."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from preprocessing import exits
from preprocessing.engines import ENGINES, WINDOW, Engine, WorkerDied, processes

LOCAL = [ENGINES["processes"], ENGINES["threads"]]


def slowest_first(number: int) -> int:
    time.sleep(0.001 * (9 - number))
    return number


def reciprocal(number: int) -> int:
    return 1 // number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_and_report(folder: Path, number: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("engine", LOCAL)
def test_results_come_in_the_order_of_the_tasks(engine: Engine) -> None:
    assert list(engine(slowest_first, range(10), workers=4)) == list(range(10))


@pytest.mark.parametrize("engine", LOCAL)
def test_no_more_than_a_window_is_read_ahead(engine: Engine) -> None:
    asked = []
    results = engine(abs, (asked.append(n) or n for n in range(1000)), workers=2)
    next(results)
    assert len(asked) <= WINDOW * 2
    results.close()


@pytest.mark.parametrize("engine", LOCAL)
def test_a_failure_reaches_the_caller(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError):
        list(engine(reciprocal, [1, 0, 1], workers=2))


def test_a_killed_worker_is_reported_in_one_line() -> None:
    with pytest.raises(WorkerDied, match="try fewer --workers"):
        list(processes(die, range(4), workers=2))


def test_the_pool_alone_raises_what_no_command_expects() -> None:
    """Negative control: the user would get a traceback without a remedy."""
    with (
        ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool,
        pytest.raises(BrokenProcessPool) as raised,
    ):
        list(pool.map(die, range(4)))
    assert not exits.expected(raised.value)


def test_workers_end_with_a_build_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from functools import partial; from pathlib import Path;"
        "from test_engines import sleep_and_report; from preprocessing.engines import processes;"
        "list(processes(partial(sleep_and_report, Path(sys.argv[2])), range(9), workers=3))"
    )
    build = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)])
    assert within(30, lambda: len(list(tmp_path.iterdir())) == 3)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    build.kill()
    build.wait()
    assert within(10, lambda: not any(map(alive, workers)))


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def alive(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""rank_watch.py: silence and stopped processes are found, work of any kind is not silence."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline import rank_watch
from pipeline.rank_watch import RankWatch, Silent

SLEEPS, COMPUTES, COMPILES = "sleep 60", "while :; do :; done", "sh -c 'while :; do :; done' & wait"
BOUND = 0.3


@contextmanager
def ranks(*scripts: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One shell per script."""
    made = [subprocess.Popen(["sh", "-c", script], start_new_session=True) for script in scripts]
    try:
        yield made
    finally:
        for process in made:
            subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
            process.wait()


def watched(
    processes: list[subprocess.Popen[bytes]], beats: list[int], each: Callable[[], None] = lambda: None
) -> Silent | None:
    """What the watch finds within twice the bound."""
    watch = RankWatch([process.pid for process in processes], beats, BOUND)
    deadline = time.monotonic() + 2 * BOUND
    while time.monotonic() < deadline:
        time.sleep(watch.interval)
        each()
        if found := watch.silent():
            return found
    return None


def test_the_rank_that_others_wait_for_is_named() -> None:
    """It has counted fewer beats; where all have counted the same, all are named."""
    with ranks(SLEEPS, SLEEPS) as two:
        found = watched(two, [7, 6])
        assert found is not None
        assert found.ranks == [1]
        assert found.message.startswith("rank 1 was silent for 0.3 s")
        assert "the others wait for it" in found.message
        both = watched(two, [6, 6])
        assert both is not None
        assert both.message.startswith("ranks 0, 1 were silent")


def test_a_stopped_rank_is_named_though_another_one_computes() -> None:
    """Whoever has counted less."""
    with ranks(COMPUTES, SLEEPS) as two:
        two[1].send_signal(signal.SIGSTOP)
        found = watched(two, [3, 4])
    assert found is not None
    assert found.ranks == [1]
    assert "rank 1 was stopped (SIGSTOP) for 0.3 s" in found.message


@pytest.mark.parametrize("script", [COMPUTES, COMPILES])
def test_a_rank_that_computes_is_not_silent(script: str) -> None:
    """Nor is one whose compiler computes, nor the rank that waits for it."""
    with ranks(script, SLEEPS) as two:
        assert watched(two, [1, 2]) is None


def test_beats_and_file_access_are_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a rank that waits for a slow disk."""
    beats = [1, 1]

    def count() -> None:
        beats[0] += 1

    with ranks(SLEEPS, SLEEPS) as two:
        assert watched(two, beats, count) is None
        moved = iter(range(1000))
        monkeypatch.setattr(rank_watch, "bytes_moved", lambda pid: next(moved))
        assert watched(two, [1, 1]) is None


def test_waiting_for_a_core_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where more processes compute than it has cores."""
    waited = iter(range(1000))
    monkeypatch.setattr(rank_watch, "_waiting_seconds", lambda pid: next(waited))
    with ranks(SLEEPS, SLEEPS) as two:
        assert watched(two, [1, 1]) is None


def test_without_a_bound_nobody_is_silent() -> None:
    with ranks(SLEEPS) as one:
        one[0].send_signal(signal.SIGSTOP)
        assert RankWatch([one[0].pid], [0], 0).silent() is None


def test_time_that_the_launcher_did_not_see_is_not_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Ctrl-Z stops it together with its ranks."""
    with ranks(SLEEPS) as one:
        watch = RankWatch([one[0].pid], [0], BOUND)
        later = time.monotonic() + 3600
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert watch.silent() is None


def test_a_process_that_has_ended_has_no_figures() -> None:
    """0 everywhere, no error."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert rank_watch.state(ended.pid) == ""
    assert rank_watch.processor_seconds(ended.pid) == 0
    assert rank_watch.bytes_moved(ended.pid) == 0

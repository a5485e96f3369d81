"""Results come in the order of the tasks, with a bounded number under way."""

import threading
import time

import pytest

from preprocessing.engines import WINDOW, threads


def test_results_come_in_order_whoever_is_first() -> None:
    assert list(threads(lambda n: (time.sleep(0.001 * (9 - n)), n)[1], range(10), workers=4)) == list(range(10))


def test_no_more_than_a_window_is_read_ahead() -> None:
    asked = []
    results = threads(abs, (asked.append(n) or n for n in range(1000)), workers=2)
    next(results)
    assert len(asked) <= WINDOW * 2
    results.close()


def test_a_failure_reaches_the_caller_and_the_threads_end() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(threads(lambda n: 1 // n, [1, 0, 1], workers=2))
    assert threading.active_count() == before

"""prefetch.py: items made in threads come in order, and their errors too."""

import time

import pytest

from pipeline.data.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetched_items_come_in_order(workers: int) -> None:
    """Whatever is ready first: even items take longer."""

    def make(n: int) -> int:
        time.sleep(0.002 * (n % 2 == 0))
        return n * n

    assert list(prefetch(make, range(32), workers)) == [n * n for n in range(32)]


def test_each_thread_is_at_most_two_items_ahead() -> None:
    """Before the first item is taken, five of 100 are asked for by two threads; without threads, one."""
    for workers, expected in ((2, 5), (0, 1)):
        asked = iter(range(100))
        next(prefetch(lambda n: n, asked, workers))
        assert next(asked) == expected


@pytest.mark.parametrize("workers", [0, 3])
def test_an_error_comes_where_its_item_would_have_come(workers: int) -> None:
    """It comes where the batch would have come."""
    made = prefetch(lambda n: 1 // n, [1, 1, 0, 1], workers)
    assert [next(made), next(made)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)

"""End a child process once: when its parent ends, even if it is killed, and at the first interrupt."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from preprocessing import exits


def end_with_parent(
    wait: Callable[[], object] | None = None, end: Callable[[], object] = lambda: os._exit(1)
) -> None:  # fmt: skip
    """Start a thread that ends this process once the parent has ended.

    Args:
        wait: Returns once the parent has ended; by default it waits for the parent of a multiprocessing child.
        end: Ends this process, by default at once and without clean-up.
    """

    def work() -> None:
        (wait or _join_parent)()
        end()

    threading.Thread(target=work, daemon=True).start()


def wait_for_end_of_input() -> None:
    """Return once the parent has closed its end of our standard input, as its death does."""
    with suppress(OSError):
        while os.read(0, 1):
            pass


def interrupt_once() -> None:
    """Let the first SIGINT raise KeyboardInterrupt and ignore later ones, which would break off the clean-up.

    A rank gets Ctrl-C twice: from the terminal and from its launcher.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold SIGINT back from this thread until the end, and from processes started meanwhile until they release it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release_interrupts() -> None:
    """Let SIGINT through again in a process that was started while it was held back; one that came arrives now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first SIGINT raise KeyboardInterrupt, the first SIGTERM Terminated; ignore later ones.

    A second Ctrl-C would break off the clean-up, with a traceback. Only the main thread can handle signals; elsewhere
    nothing changes. After a signal both stay ignored: the process is about to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM

    def end(number: int, _: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise exits.Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:  # no signal came, here or in a call of this function within
                signal.signal(number, handler)


def _join_parent() -> None:
    import multiprocessing  # only where it is loaded anyway: some children start in a few milliseconds

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()

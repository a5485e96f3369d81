"""Start ranks on this machine and end them together.

The launcher loads no torch, unless it holds the store of several nodes; the ranks do.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipeline.nodes import Node
from pipeline.rank_watch import RankWatch
from preprocessing import exits, lifetime

SILENCE = 60.0  # seconds without a sign of life after which `launch` ends the ranks
# Seconds that the other ranks have to end by themselves after one has failed, and to end once they are asked to.
GRACE, LAST_GRACE = 5.0, 5.0

# Errors of a rank whose connection to another rank, or to the store, has ended.
LOST = re.compile(r"gloo|NCCL|TCPStore|Dist(Backend|Network|Store)Error|Connection (closed|reset)|Broken pipe")

PASSED_ON = (exits.USAGE, exits.NON_FINITE, exits.INTEGRITY, exits.NO_SPACE, exits.OUT_OF_MEMORY)


class RankDied(exits.Fault):
    """A rank ended with an error; the message names it. `exit_code` is the rank's where it is one of ours."""

    def __init__(self, message: str, code: int = exits.WORKER) -> None:
        super().__init__(message)
        self.exit_code = code if code in PASSED_ON else exits.WORKER


def launch(
    entry: Callable[..., None],
    arguments: tuple[Any, ...],
    ranks: int,
    silence: float = SILENCE,
    node: Node | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Run `entry(*arguments)` in `ranks` new processes of this machine.

    The ranks of one machine find each other through a file, so that no port is open; gloo's connections stay on
    loopback. Those of several machines meet through a store, which the launcher on node 0 holds.

    Args:
        entry: Function that each rank runs.
        arguments: Its arguments; they are pickled.
        ranks: Number of ranks on this machine.
        silence: Seconds without a sign of life (`rank_watch`) after which the ranks are ended; 0 means never.
        node: This machine, where ranks of several train together; each of them launches its own ranks.
        listener: On node 0, the socket that is bound to the node's port; it is closed at the end.

    Raises:
        RankDied: A rank failed or is silent. The message names the first one, with its error; the others are ended.
        KeyboardInterrupt: This process got SIGINT or (Terminated) SIGTERM; the ranks are interrupted and have ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    first = 0 if node is None else node.number * ranks
    store = None if node is None or listener is None else _store(node, listener)
    context = multiprocessing.get_context("spawn")
    beats = context.RawArray("Q", ranks)
    with tempfile.TemporaryDirectory(prefix="skelnorm-ranks-") as name, lifetime.interruptible():
        folder = Path(name)
        processes = [
            context.Process(
                target=_run_rank, args=(local, folder, beats, entry, arguments, node), name=f"rank {first + local}"
            )
            for local in range(ranks)
        ]
        try:
            # A rank that imports modules would answer Ctrl-C by a traceback: the signal waits for `_run_rank`.
            resource_tracker.ensure_running()  # its own start would release the signal
            with lifetime.interrupts_held():
                for process in processes:
                    process.start()
            _wait_for_failure(processes, RankWatch([process.pid or 0 for process in processes], beats, silence))
            failed = {rank: process.exitcode for rank, process in enumerate(processes, first) if process.exitcode}
            if failed:
                raise _death(failed, _last_words(folder))
        finally:
            _end(processes, signal.SIGINT if isinstance(sys.exception(), KeyboardInterrupt) else signal.SIGTERM)
            del store  # the server ends


def _store(node: Node, listener: socket.socket) -> object:
    from pipeline import distributed

    return distributed.serve(node, listener)


def _wait_for_failure(processes: Sequence[BaseProcess], watch: RankWatch) -> None:
    """Return once all have ended; after a failure, once all have or GRACE is over. RankDied if ranks are silent.

    A process is noticed to have ended some time after its connections are reset. So the rank that waited for it may be
    noticed first, and only the exit codes of all tell which one failed.
    """
    deadline = None
    while running := [process.sentinel for process in processes if process.exitcode is None]:
        if deadline is None and any(process.exitcode for process in processes):
            deadline = time.monotonic() + GRACE
        left = watch.interval if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return
        ended = multiprocessing.connection.wait(running, left)
        if not ended and deadline is None and (silent := watch.silent()):
            for rank in silent.ranks:
                processes[rank].kill()  # SIGKILL alone ends a stopped process
            raise RankDied(silent.message)


def _end(processes: Sequence[BaseProcess], how: signal.Signals) -> None:
    """Send a signal to the processes that still run, and kill those that do not end in time."""
    running = [process for process in processes if process.pid is not None and process.exitcode is None]
    for process in running:
        os.kill(process.pid or 0, how)
    deadline = time.monotonic() + LAST_GRACE
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()


def _death(failed: Mapping[int, int], words: Mapping[int, dict[str, Any]]) -> RankDied:
    """Return the error of the rank that failed first; print its traceback if its error was not expected."""
    rank = root_failure(failed, {rank: last["time"] for rank, last in words.items()})
    code, last = failed[rank], words.get(rank)
    if last is None:
        if code == -signal.SIGKILL:
            return RankDied(f"rank {rank} was killed (SIGKILL), perhaps because memory ran out", code)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return RankDied(f"rank {rank} {how} without a message", code)
    if last["traceback"]:
        print(f"Process rank {rank}:\n{last['traceback']}", file=sys.stderr, flush=True)
        if LOST.search(last["message"]):
            return RankDied(f"rank {rank} lost the connection to another rank; its traceback stands above", code)
        return RankDied(f"rank {rank} ended with exit code {code}; its traceback stands above", code)
    return RankDied(f"rank {rank}: {last['message']}", code)


def root_failure(failed: Mapping[int, int], times: Mapping[int, int]) -> int:
    """Return the rank that failed first.

    A rank that died without a word (killed, crashed) comes before those that raised an error, which may be that of a
    lost connection. A rank that aborted comes last: gloo and NCCL abort ranks that wait for a dead one.

    Args:
        failed: Rank -> its exit code, negative for a signal.
        times: Rank -> time at which it raised an error; absent where it died without a word.
    """

    def place(rank: int) -> tuple[int, int]:
        if rank in times:
            return 1, times[rank]
        return 2 if failed[rank] == -signal.SIGABRT else 0, 0

    return min(failed, key=place)


def _last_words(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what the ranks left that raised an error: `time`, `message` and `traceback`."""
    return {int(path.suffix[1:]): json.loads(path.read_text()) for path in folder.glob("failed.*")}


def _run_rank(
    local: int,
    folder: Path,
    beats: Any,
    entry: Callable[..., None],
    arguments: tuple[Any, ...],
    node: Node | None,
) -> None:
    """Run one rank; its error goes to the launcher, which reports the first one alone."""
    rank = local if node is None else node.number * len(beats) + local
    lifetime.interrupt_once()
    lifetime.end_with_parent()
    exits.print_any_character()
    try:
        lifetime.release_interrupts()
        from pipeline import distributed  # torch loads here, under the watch of the launcher

        distributed.count_beats(beats, local)
        if node is None:
            distributed.meet(folder / "store", local, len(beats))
        else:
            distributed.meet_nodes(node, local, len(beats))
        entry(*arguments)
        _leave_at_once(0)
    except KeyboardInterrupt:
        _leave_at_once(exits.INTERRUPTED)  # the launcher reports it
    except Exception as error:
        now, expected = time.monotonic_ns(), exits.expected(error)
        full = "" if expected else traceback.format_exc()
        last = {"time": now, "message": exits.describe(error), "traceback": full}
        with suppress(OSError):
            (folder / f"failed.{rank}").write_text(json.dumps(last))
        _leave_at_once(exits.code(error) if expected else 1)


def _leave_at_once(code: int) -> None:
    """End this rank at once: to tear torch down takes most of a second, and a broken group may abort, print or hang."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def launched() -> bool:
    """Return whether this process is one rank of a launcher (ours or torchrun)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ

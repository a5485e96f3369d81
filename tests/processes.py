"""What a command and all processes that it starts do while it runs: where they listen, which files they write."""

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from preprocessing import faults

ANY, LOOPBACK = "any address", "loopback"


def tree(pid: int) -> list[int]:
    """A process and all that it and they have started."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def listeners(pid: int) -> Iterator[tuple[str, int]]:
    """Address and port of each TCP socket that a process listens on."""
    sockets = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(entry.path))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                address, _, port = columns[1].partition(":")
                yield readable(address), int(port, 16)


def readable(address: str) -> str:
    """`loopback`, `any address`, or the hexadecimal form of another one."""
    if address in ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"):
        return LOOPBACK
    return ANY if set(address) == {"0"} else address


def name(pid: int) -> str:
    """The process's title, without folders."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return " ".join(word.decode().rpartition("/")[2] for word in words if word)[:60]
    return ""


class Watcher(threading.Thread):
    """Looks at the tree of a process again and again, until `stop`.

    Args:
        pid: The process.
        words: Words that no file below `folders` may have.
        folders: Where these files are; files that are removed meanwhile are read before.
    """

    def __init__(self, pid: int, words: tuple[bytes, ...] = (), folders: tuple[Path, ...] = ()) -> None:
        super().__init__(daemon=True)
        self.pid, self.words, self.folders, self._end = pid, words, folders, threading.Event()
        self.pids: set[int] = set()
        self.listening: dict[tuple[str, str], int] = {}  # (process, address) -> a port
        self.found: dict[bytes, set[str]] = {word: set() for word in words}
        self.read: set[str] = set()
        self.modes: dict[str, int] = {}  # of folders directly below `folders`
        self.start()

    def run(self) -> None:
        while not self._end.wait(0.3):
            self.look()

    def look(self) -> None:
        """Look once."""
        for pid in tree(self.pid):
            self.pids.add(pid)
            for address, port in listeners(pid):
                self.listening[name(pid), address] = port
        for folder in self.folders:
            for path in folder.glob("*/"):
                self.modes[path.name] = path.stat().st_mode & 0o777
            for parent, _, files in os.walk(folder):
                for path in (Path(parent, file) for file in files):
                    with contextlib.suppress(OSError):
                        self._search(path)

    def _search(self, path: Path) -> None:
        if path.is_file():  # not a socket
            content = path.read_bytes()
            self.read.add(str(path))
            for word in self.words:
                if word in content:
                    self.found[word].add(str(path))

    def stop(self) -> "Watcher":
        """Look no more; return what was seen."""
        self._end.set()
        self.join()
        return self

    def gone(self, seconds: float) -> list[str]:
        """Wait until all processes that were seen have ended; return those that have not."""
        deadline = time.monotonic() + seconds
        while left := [pid for pid in self.pids if running(pid)]:
            if time.monotonic() > deadline:
                return [f"{pid} {name(pid)}" for pid in left]
            time.sleep(0.2)
        return []


def running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def forked(work: Callable[[], int | None], faultpoint: str = "", kill_after: float | None = None) -> int:
    """Do some work in a child; return its exit code, negative for a signal, once all that it has forked has ended.

    A fork has all modules loaded, so that hundreds of kills take minutes.

    Args:
        work: The work; its return value is the exit code, None is 0.
        faultpoint: Where the child is killed, see `preprocessing.faults`.
        kill_after: Seconds after which the child is killed.
    """
    ended, held = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if faultpoint:
                os.environ[faults.VARIABLE] = faultpoint
            code = int(work() or 0)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)  # a child that has ended is a zombie until it is waited for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(held)
    os.read(ended, 1)
    os.close(ended)
    return code


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()

"""A program that starts two ranks, which work, die, raise or hang; the argument names which."""

import os
import subprocess
import sys
from pathlib import Path

RANKS = """
import os, signal, sys, time
import torch
from pipeline import distributed, launcher
from preprocessing import exits

SILENCE = 2.0

def listening():
    # Local addresses, in hexadecimal, that this process listens on.
    sockets = {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in list(open(table))[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                yield columns[1].split(":")[0]

def work(what):
    distributed.join()
    rank = distributed.rank()
    distributed.total(torch.tensor(1.0))  # until both are connected: gloo would report a rank that is gone by then
    if what == "die" and rank == 1:
        os._exit(9)
    if what == "raise" and rank == 1:
        raise RuntimeError("of rank 1")
    if what == "reject" and rank == 1:
        raise ValueError("no such clip")
    if what == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop" and rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "sleep" and rank == 0:
        time.sleep(600)
    if what == "compute" and rank == 0:
        begin = time.monotonic()
        while time.monotonic() < begin + 2.5 * SILENCE:
            pass
    if what == "hang" and rank == 0:
        time.sleep(600)
    if what == "hang":
        os._exit(9)
    if what == "print":
        sys.stdout.write(f"not flushed {rank}\\n")  # one write: both ranks share the pipe
    if what == "ports":
        print(f"listens on {sorted(listening())};", flush=True)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    stacked = distributed.stack_over_ranks(x * (rank + 1))
    (stacked * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    three = distributed.total(torch.tensor(1.0 + rank)).item()
    if rank == 0:
        print(stacked.tolist(), x.grad.tolist(), three)
    many = torch.arange(distributed.FEW + 1.0)
    print(torch.equal(distributed.total(many), 2 * many))
    distributed.leave()

if __name__ == "__main__":
    from ranks import work as found_by_name
    try:
        launcher.launch(found_by_name, (sys.argv[1],), 2, SILENCE)
    except launcher.RankDied as error:
        sys.exit(exits.report(error))
"""


def two_ranks(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    """The program above on two ranks."""
    (folder / "ranks.py").write_text(RANKS)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    command = [sys.executable, str(folder / "ranks.py"), what]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": ""},
        cwd=folder,
    )

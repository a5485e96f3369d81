"""Measure how long each command takes to answer `--help` and a typing error: wall clock and processor time, medians.

python tests/bench/startup.py --rounds 5
python tests/bench/startup.py --data clips.h5     # also: seconds until a training's first step
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from preprocessing.console import COMMANDS  # noqa: E402 - the path is set above

SCRIPT = "import sys; from preprocessing.console import main; sys.exit(main())"


def once(words: list[str]) -> tuple[float, float]:
    """Seconds and processor seconds of one command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    subprocess.run([sys.executable, "-P", "-c", SCRIPT, *words], capture_output=True, env=environment, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def medians(words: list[str], rounds: int) -> str:
    """Both medians as two cells of a table; the first round, which may write byte code, does not count."""
    runs = [once(words) for _ in range(rounds + 1)][1:]
    return f"{median(run[0] for run in runs):.2f} | {median(run[1] for run in runs):.2f}"


def first_step(data: Path, ranks: int) -> float:
    """Return the seconds until the first step of a training of one epoch: those until its record, less its epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run, began = Path(folder) / "run", time.time()
        words = ["train", "default", "--data", str(data), "--out", str(run), "--nproc", str(ranks), "--wandb", "off"]
        subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT, *words, "--train.epochs", "1"],
            capture_output=True, env=os.environ | {"PYTHONPATH": str(HOME)}, check=True,
        )  # fmt: skip
        ledger = run / "ledger.jsonl"
        record = json.loads(ledger.read_text().splitlines()[0])
        return ledger.stat().st_mtime - began - record["seconds"] - record["evaluation_seconds"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="data file of a training")
    options = parser.parse_args()
    rounds = options.rounds
    if options.data:
        for ranks in (1, 2):
            runs = [first_step(options.data, ranks) for _ in range(rounds + 1)][1:]
            print(f"first step of {ranks} ranks after {median(runs):.2f} s", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, medians of {rounds}, seconds")
    print("| command | `--help` | processor | typo | processor |\n|---|---|---|---|---|")
    for name in ("", *COMMANDS):
        first = [name] if name else []
        print(f"| {name or 'skelnorm'} | {medians([*first, '--help'], rounds)} | ", end="", flush=True)
        print(f"{medians([*first, '--tpyo'] if name else ['tran'], rounds)} |", flush=True)
    print(f"| --version | {medians(['--version'], rounds)} | | |\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()

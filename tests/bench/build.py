"""Measure the speed of preprocessing: side by side in one run, on the same files, warm, medians, as ratios.

    make bench
    python tests/bench/build.py --clips 2000 --rounds 5 --growth 1000 5000 20000 60000

Files are hard links of recordings under valid names: the real ones where they are (SKELNORM_REAL_DATA), else synthetic
ones. Start-up (interpreter, imports, loading of compiled code: a build of two clips) is measured apart and taken off
where it says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME), str(HOME / "tests" / "reference")]

import ctr_chain  # noqa: E402 - the path is set above
from recordings import link, recordings  # noqa: E402

from preprocessing.skeleton import parse  # noqa: E402
from preprocessing.tokenizer import tokenize  # noqa: E402


def start_up(base: list[Path], folder: Path) -> Path:
    """The least that loads all compiled code: a clip of one body and one of two."""
    bodies = [len(parse(path.read_bytes(), path.stem).tracks) for path in base]
    return link([base[bodies.index(1)], base[bodies.index(2)]], folder, 2)


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def memory_of(process: int, file: Path | None = None) -> int:
    """Bytes of a process and all below it (PSS, so that what they share counts once); 0 for one that has ended.

    With `file` those of its maps of that file alone.
    """
    try:
        maps = Path(f"/proc/{process}/{'smaps' if file else 'smaps_rollup'}").read_text()
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0
    held, counts = 0, file is None
    for line in maps.splitlines():
        if file and "-" in line.split(" ", 1)[0]:  # the head of a map: its addresses, and what is mapped
            counts = line.endswith(str(file))
        elif counts and line.startswith("Pss:"):
            held += int(line.split()[1]) << 10
    return held + sum(memory_of(int(child), file) for child in below)


class Run:
    """One run of a command: seconds, CPU-seconds, peak memory in bytes, its processes together."""

    def __init__(self, *command: str) -> None:
        with tempfile.TemporaryFile() as error:
            began = time.perf_counter()
            child = subprocess.Popen(command, cwd=HOME, stdout=subprocess.DEVNULL, stderr=error)
            self.memory, ended = 0, threading.Event()

            def watch() -> None:
                while not ended.wait(0.2):
                    self.memory = max(self.memory, memory_of(child.pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            _, status, usage = os.wait4(child.pid, 0)
            self.seconds = time.perf_counter() - began
            ended.set()
            watcher.join()
            if status:
                error.seek(0)
                raise SystemExit(f"{' '.join(command)} failed: {error.read().decode()[-500:]}")
        self.cpu = usage.ru_utime + usage.ru_stime


def build(source: Path, out: Path, recipe: str = "ctr", workers: int = 2) -> Run:
    """The command as a user runs it."""
    out.unlink(missing_ok=True)
    return Run(
        sys.executable, "-m", "preprocessing.build", str(source), "--out", str(out), "--recipe", recipe,
        "--workers", str(workers), "--allow-rejects",
    )  # fmt: skip


def reference(folder: Path) -> tuple[float, float, float]:
    """Seconds, CPU-seconds and bytes of peak memory of the plain chain in a process of its own; without start-up."""
    code = (
        "import sys,time,resource;sys.path.insert(0,sys.argv[2]);import ctr_chain;from pathlib import Path;"
        "paths=sorted(Path(sys.argv[1]).iterdir());t=time.perf_counter();c=time.process_time();ctr_chain.chain(paths);"
        "print(time.perf_counter()-t,time.process_time()-c,resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024)"
    )
    command = [sys.executable, "-c", code, str(folder), str(Path(ctr_chain.__file__).parent)]
    seconds, cpu, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(cpu), float(memory)


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and CPU-seconds of one call in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def read_all(paths: list[Path]) -> None:
    """Read the bytes, as sources does."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            file.read()


def tokenize_all(paths: list[Path]) -> None:
    """Read and tokenise, and nothing else."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            tokenize(file.read())


def median(values: list[float]) -> float:
    """Their median."""
    return statistics.median(values)


def side_by_side(base: list[Path], work: Path, clips: int, rounds: int) -> dict[str, float]:
    """The chain, the build from a folder and from a zip, and the limit, interleaved round by round."""
    folder = link(base, work / "side", clips)
    few = start_up(base, work / "few")
    packed = work / "side.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"nturgb+d_skeletons/{path.name}")
    paths = sorted(folder.iterdir())
    tokenize_all(paths[:1])
    start, whole, zipped, plain, limit, reading = [], [], [], [], [], []
    build(few, work / "few.h5")
    for _ in range(rounds):
        start.append(build(few, work / "few.h5"))
        whole.append(build(folder, work / "side.h5"))
        zipped.append(build(packed, work / "zip.h5"))
        limit.append(clock(lambda: tokenize_all(paths)))
        reading.append(clock(lambda: read_all(paths)))
        plain.append(reference(folder))
    if (work / "side.h5").read_bytes() != (work / "zip.h5").read_bytes():
        raise SystemExit("the builds from the folder and from the zip differ")
    begin, begin_cpu = median([run.seconds for run in start]), median([run.cpu for run in start])
    seconds, cpu = median([run.seconds for run in whole]), median([run.cpu for run in whole])
    bytes_limit = median([cpu for _, cpu in limit])
    plain_seconds, plain_cpu = median([row[0] for row in plain]), median([row[1] for row in plain])
    zip_cpu = median([run.cpu for run in zipped])
    megabytes = size(folder) / 1e6
    return {
        "clips": clips,
        "megabytes": megabytes,
        "start-up, seconds": begin,
        "end to end, seconds": seconds,
        "end to end, CPU-seconds": cpu,
        "end to end without start-up, seconds": seconds - begin,
        "clips/s, start-up included": clips / seconds,
        "clips/s, start-up apart": clips / (seconds - begin),
        "MB/s, start-up apart": megabytes / (seconds - begin),
        "plain chain, seconds": plain_seconds,
        "plain chain, CPU-seconds": plain_cpu,
        "ratio to the plain chain, start-up included": plain_seconds / seconds,
        "ratio to the plain chain, start-up apart": plain_seconds / (seconds - begin),
        "the same in CPU-seconds, times 2 cores": 2 * plain_cpu / (cpu - begin_cpu),
        "reading, CPU-seconds": median([cpu for _, cpu in reading]),
        "limit: reading and tokenising, CPU-seconds": bytes_limit,
        "all else, CPU-seconds": cpu - begin_cpu - bytes_limit,
        "all else to the limit": (cpu - begin_cpu - bytes_limit) / bytes_limit,
        "from a zip, seconds": median([run.seconds for run in zipped]),
        "zip to folder, start-up apart": (median([run.seconds for run in zipped]) - begin) / (seconds - begin),
        "the same in CPU-seconds": (zip_cpu - begin_cpu) / (cpu - begin_cpu),
        "peak memory, MB": max(run.memory for run in whole) / 1e6,
        "plain chain's peak memory, MB": max(row[2] for row in plain) / 1e6,
    }


def growth(base: list[Path], work: Path, steps: list[int], recipe: str) -> list[dict[str, float]]:
    """The same build over more and more files; start-up apart."""
    few = start_up(base, work / "one")
    table = []
    for clips in steps:
        folder = link(base, work / f"grow{clips}", clips)
        runs, net = [], []
        for _ in range(9 if clips <= 1000 else 5 if clips <= 5000 else 3 if clips <= 20000 else 1):
            begin = build(few, work / "one.h5", recipe).seconds
            runs.append(build(folder, work / "grow.h5", recipe))
            net.append(runs[-1].seconds - begin)
        seconds = median(net)
        table.append(
            {"clips": clips, "seconds": seconds, "clips/s": clips / seconds, "MB": max(r.memory for r in runs) / 1e6}
        )
        print(json.dumps(table[-1]), flush=True)
        shutil.rmtree(folder)
        (work / "grow.h5").unlink()
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1211, help="files of the side by side run")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[1000, 5000, 20000], help="numbers of files; none skips"
    )
    parser.add_argument("--recipe", default="exact", help="of the growth runs")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        base, kind = recordings(work)
        load = os.getloadavg()[0]
        print(
            f"{kind}; {os.cpu_count()} cores, load {load:.1f} at the start, so shared if that is not near 0; 2 workers"
        )
        figures = side_by_side(base, work, options.clips, options.rounds)
        for what, value in figures.items():
            print(f"{what:48} {value:12.3f}")
        table = growth(base, work, options.growth, options.recipe)
        if len(table) > 1:
            rates = np.array([row["clips/s"] for row in table])
            print(f"clips/s from slowest to fastest size: {rates.min() / rates.max():.2f}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"(this process itself: {own:.0f} MB)")
    if options.out:
        options.out.write_text(
            json.dumps({"kind": kind, "load": load, "side by side": figures, "growth": table}, indent=1)
        )


if __name__ == "__main__":
    main()

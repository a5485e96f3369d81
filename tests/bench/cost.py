"""What the doctor costs: `python -m pipeline.doctor` on the question's network, seconds, CPU-seconds and peak memory.

    python tests/bench/cost.py
    python tests/bench/cost.py --clips 4000 8000 --rounds 3

For each number of recordings (half are trained on, half judged): built, trained for an epoch, diagnosed. The doctor
keeps 2,000 clips of each half, so beyond 4,000 recordings neither time nor memory may grow but by the reading.
Recordings are those of tests/bench/recordings.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from build import Run  # noqa: E402 - the path is set above
from recordings import link, recordings  # noqa: E402

TRAIN = ("--wandb", "off", "--norm.persons", "loop", "--norm.momentum", "0.01", "--input.fit", "train+val")
SHORT = ("--train.epochs", "1", "--train.no-self-test")
WHAT = ("seconds", "cpu", "memory")


def run_of(data: Path, out: Path) -> Path:
    """The question's network after an epoch."""
    Run(sys.executable, "-m", "pipeline.train", "default", "--data", str(data), "--out", str(out), *TRAIN, *SHORT)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 4000, 8000], help="recordings")
    parser.add_argument("--rounds", type=int, default=3, help="of the doctor, for each number of recordings")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        base, kind = recordings(work)
        print(f"hard links of {kind}; medians of {options.rounds}, start-up of Python and torch included")
        for clips in options.clips:
            folder, data = link(base, work / f"raw{clips}", clips), work / f"{clips}.h5"
            Run(sys.executable, "-m", "preprocessing.build", str(folder), "--out", str(data), "--allow-rejects")
            run = run_of(data, work / f"run{clips}")
            doctor = sys.executable, "-m", "pipeline.doctor", str(run), "--split", "test"
            runs = [Run(*doctor) for _ in range(options.rounds)]
            samples = json.loads((run / "doctor.json").read_text())["samples"]
            seconds, busy, memory = (statistics.median(getattr(r, what) for r in runs) for what in WHAT)
            print(
                f"{clips:6} recordings ({samples['train']} + {samples['eval']} clips measured on): {seconds:5.1f} s, "
                f"{busy:5.1f} CPU-seconds, at most {memory / 1e6:.0f} MB ({data.stat().st_size / 1e6:.0f} of file)"
            )


if __name__ == "__main__":
    main()

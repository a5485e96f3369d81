"""Measure the cost of `python -m pipeline.doctor`: seconds, CPU-seconds and peak memory on the question's network.

    python tests/bench/cost.py
    python tests/bench/cost.py --clips 6000 12000 --rounds 3

For each number of synthetic recordings (half are trained on, a third evaluated) this builds the data, trains until the
loop has left a normalization gap (so that the doctor measures its remedies too), and runs the doctor. The doctor keeps
2,000 clips per split, so beyond 6,000 recordings only reading may add time or memory.
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

TRAIN = ("--wandb", "off", "--norm.persons", "loop", "--norm.momentum", "0.01", "--input.fit", "train+val")
SHORT = ("--train.eval-every", "100", "--train.no-self-test")
STEPS, BATCH = 190, 64
WHAT = ("seconds", "cpu", "memory")


def command(module: str, *words: object) -> Run:
    """A command of ours, to its end."""
    return Run(sys.executable, "-m", module, *map(str, words))


def run_of(recordings: int, work: Path) -> tuple[Path, Path]:
    """Data file and run folder of the question's network after some 190 steps."""
    raw, data, out = (work / f"{name}{recordings}" for name in ("raw", "data", "run"))
    data = data.with_suffix(".h5")
    command("preprocessing.synthetic", raw, "--clips", recordings)
    command("preprocessing.build", raw, "--out", data)
    epochs = max(1, round(STEPS * BATCH / (recordings / 2)))
    command("pipeline.train", "default", "--data", data, "--out", out, *TRAIN, *SHORT, "--train.epochs", epochs)
    return data, out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1500, 6000, 12000], help="recordings")
    parser.add_argument("--rounds", type=int, default=3, help="of the doctor, for each number of recordings")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    print(f"medians of {options.rounds}, start-up of Python and torch included")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for clips in options.clips:
            data, out = run_of(clips, Path(name))
            runs = [command("pipeline.doctor", out, "--split", "test") for _ in range(options.rounds)]
            found = json.loads((out / "doctor.json").read_text())
            samples, gap = found["samples"], found["gap"]["normalization"]
            seconds, busy, memory = (statistics.median(getattr(r, what) for r in runs) for what in WHAT)
            print(
                f"{clips:6} recordings ({samples['train']} + {samples['eval']} clips measured on, normalization gap "
                f"{100 * gap:.1f} points): {seconds:5.1f} s, {busy:5.1f} CPU-seconds, at most {memory / 1e6:.0f} MB "
                f"({data.stat().st_size / 1e6:.0f} of file)",
                flush=True,
            )


if __name__ == "__main__":
    main()

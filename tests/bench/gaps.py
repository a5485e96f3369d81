"""Accuracy with missing joints: UTD-MHAD complete, with 8 % of its joints missing, and with these taken for present.

    python -m tests.bench.gaps UTD_MHAD.npz FOLDER [--coordinates 2] [--share 0.08] [--seeds 0 1 2] [--epochs 15]

Each file is built by preprocessing.build and trained by pipeline.train on the default settings; the negative control is
built with --absent none, which centres missing joints like present ones.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def write_inputs(source: Path, folder: Path, coordinates: int, share: float) -> None:
    """Write complete.npz and gaps.npz; the missing joints are exactly zero."""
    arrays = dict(np.load(source))
    x = arrays["X"] = arrays["X"][..., :coordinates]
    np.savez(folder / "complete.npz", **arrays)
    missing = np.random.default_rng(0).random(x.shape[:3]) < share
    np.savez(folder / "gaps.npz", **arrays | {"X": np.where(missing[..., None], np.float32(0), x)})


def run(*arguments: object) -> None:
    """Run a command of ours; its messages are shown if it fails."""
    made = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(made.stderr)


def main() -> None:
    """Print the test accuracy of each file, mean and standard deviation over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--coordinates", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.08)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_inputs(options.source, options.folder, options.coordinates, options.share)
    for name, source, more in (
        ("complete", "complete", ()),
        ("gaps", "gaps", ()),
        ("gaps-filled", "gaps", ("--fill", "linear")),
        ("gaps-taken-for-present", "gaps", ("--absent", "none")),
    ):
        data = options.folder / f"{name}.h5"
        run("preprocessing.build", options.folder / f"{source}.npz", "--out", data, *more)
        top1 = []
        for seed in options.seeds:
            out = options.folder / f"{name}-{seed}"
            run(
                "pipeline.train", "default", "--data", data, "--out", out, "--train.seed", seed, "--train.epochs",
                options.epochs, "--wandb", "off", "--train.no-self-test",
            )  # fmt: skip
            top1.append(100 * json.loads((out / "summary.json").read_text())["test"]["top1"])
        shown = ", ".join(f"{value:.1f}" for value in top1)
        print(f"{name}: {np.mean(top1):.1f} +- {np.std(top1, ddof=1):.1f} ({shown})", flush=True)


if __name__ == "__main__":
    main()

"""A line of the README's table of accuracies: a preset, or it with other settings, trained over seeds and folds.

    python tests/bench/accuracy.py nw-ucla --data nw.h5 --out runs/nw
    python tests/bench/accuracy.py sbu --data sbu.h5 --out runs/sbu-hcn --at-once 2 -- --model.name hcn

Settings of pipeline.train come behind `--`. Trained on train+val, so that the test split is read once per seed, at the
end, and nothing can be chosen by it. Each run is a command of its own with one core. The same command again trains what
is missing. A file whose protocols are fold1, fold2, ... has each of them trained; a seed's accuracy is the mean over
folds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from preprocessing.hdf5 import open_file  # noqa: E402 - the path is set above
from tuning.results import plus_minus  # noqa: E402
from tuning.statistics import mean_std  # noqa: E402

ONE_CORE = os.environ | {"OMP_NUM_THREADS": "1"}


def run(module: str, *words: str) -> None:
    """One command, as a user gives it; its output is shown if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=HOME, env=ONE_CORE, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def train(options: argparse.Namespace, folder: Path, protocol: str, seed: int) -> dict[str, Any]:
    """The summary of one run. If the run is finished already, pipeline.train only prints its figures."""
    words = ["--data", str(options.data), "--out", str(folder), "--wandb", "off", "--fast-start"]
    words += ["--input.fit", "train+val", "--train.seed", str(seed)]
    words += ["--input.protocol", protocol] if protocol else []
    run("pipeline.train", options.preset, *words, *options.settings)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    print(f"{folder.name}: {100 * summary['test']['top1']:.1f} % in {summary['seconds']:.0f} s", flush=True)
    return summary


def together(folders: list[Path], out: Path) -> float:
    """Accuracy of all seeds of one protocol together."""
    run("pipeline.ensemble", *map(str, folders), "--out", str(out))
    accuracy: float = json.loads(out.read_text())["test"]["top1"]
    return accuracy


def main() -> None:
    """Train what is missing, print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end], argparse.Namespace(settings=given[end + 1 :]))
    options.data, options.out = options.data.resolve(), options.out.resolve()
    folds = sorted(name for name in open_file(options.data).splits if name.startswith("fold")) or [""]
    runs = list(itertools.product(folds, range(options.seeds)))
    folders = {(fold, seed): options.out / (f"{fold}-{seed}" if fold else str(seed)) for fold, seed in runs}
    with ThreadPoolExecutor(options.at_once) as pool:
        done = dict(zip(runs, pool.map(lambda key: train(options, folders[key], *key), runs), strict=True))

    def a_seed(figure: str) -> list[float]:
        return [
            statistics.mean(done[fold, seed][figure]["top1"] for fold in folds) for seed in range(options.seeds)
        ]  # fmt: skip

    first = done[runs[0]]
    everyone = [
        together([folders[fold, seed] for seed in range(options.seeds)], options.out / f"together{fold}.json")
        for fold in folds
        if options.seeds > 1
    ]
    cells = {
        "one clip": plus_minus(*mean_std(a_seed("test"))),
        "ten clips": plus_minus(*mean_std(a_seed("test_10_clips"))) if "test_10_clips" in first else "",
        f"{options.seeds} seeds together": f"{100 * statistics.mean(everyone):.1f}" if everyone else "",
        "M parameters": f"{first['model']['params'] / 1e6:.3f}",
        "GFLOPs a body": f"{first['model']['flops_one_body'] / 1e9:.3f}",
        "seconds per seed": f"{sum(summary['seconds'] for summary in done.values()) / options.seeds:.0f}",
    }
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}\n| {' | '.join(cells.values())} |")


if __name__ == "__main__":
    main()

"""Measure a habit of published code: evaluate the test split after every epoch and report the best epoch.

    python tests/bench/habit.py nw-ucla --data nw.h5 --at-once 2
    python tests/bench/habit.py sbu-stgcn --data sbu.h5 --seeds 3 -- --input.protocol fold1

Trains a preset on train+val, as tests/bench/accuracy.py does, and prints two accuracies for each seed: of the last
epoch, which is what this project publishes, and of the epoch that is best on the test split, which nobody can know who
has no labels. Nothing may be chosen by these figures.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import torch  # noqa: E402 - the path is set above

from pipeline.config import parse  # noqa: E402
from pipeline.evaluation import accuracies  # noqa: E402
from pipeline.evaluation.metrics import metrics  # noqa: E402
from pipeline.training import fit, setup  # noqa: E402
from tuning.results import plus_minus  # noqa: E402
from tuning.statistics import mean_std  # noqa: E402


def each_epoch(words: list[str], seed: int) -> list[float]:
    """Test accuracy after each epoch of one training, on one core."""
    torch.set_num_threads(1)
    config = parse([*words, "--train.seed", str(seed)])
    clips, splits, state = setup(config, torch.device("cpu"))
    frames, size = config.input.frames, config.train.batch_size
    top1: list[float] = []
    for _ in fit(config, clips, splits, state):
        prediction = accuracies.predict(state.eval_model, clips, splits.test, frames, size)
        top1.append(metrics(prediction.logits_NK, prediction.label_N)["top1"])
    return top1


def main() -> None:
    """Train, print one line per seed and the two means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="trainings at a time")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:end])
    words = [options.preset, "--data", str(options.data), "--out", "nothing-is-written", "--wandb", "off"]
    words += ["--input.fit", "train+val", *given[end + 1 :]]
    spawn = multiprocessing.get_context("spawn")
    last, best = [], []
    with ProcessPoolExecutor(options.at_once, mp_context=spawn) as pool:
        for seed, accuracies in enumerate(pool.map(partial(each_epoch, words), range(options.seeds))):
            last.append(accuracies[-1])
            best.append(max(accuracies))
            epoch = 1 + accuracies.index(best[-1])
            print(f"seed {seed}: last {100 * last[-1]:.1f} %, best {100 * best[-1]:.1f} % (epoch {epoch})", flush=True)
    print(f"last {plus_minus(*mean_std(last))} %, best on the test split {plus_minus(*mean_std(best))} %")


if __name__ == "__main__":
    main()

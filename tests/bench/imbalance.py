"""Uneven classes: every second class keeps few of its training clips. Prints a table row per arm.

    python tests/bench/imbalance.py utd_mhad.npz --out work --keep 1

UTD-MHAD has 16 training clips per class (train and val together), so that --keep 1 makes 16 to 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from finetune import CPU, built, drawn, settings

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from pipeline import training  # noqa: E402 - the path is set above
from pipeline.evaluation import accuracies  # noqa: E402
from pipeline.evaluation.metrics import metrics  # noqa: E402
from tuning.results import plus_minus  # noqa: E402
from tuning.statistics import mean_std  # noqa: E402

ARMS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "class weights sqrt": {"optim": {"class_weights": "sqrt"}},
    "class weights balanced": {"optim": {"class_weights": "balanced"}},
    "balanced sample": {"input": {"sample": "balanced"}},
}


def figures(options: argparse.Namespace, arm: dict[str, Any], data: Path, seed: int) -> dict[str, float]:
    """Top-1, mean class accuracy, and recall of frequent and rare classes on the test split."""
    sections = arm | {"train": {"seed": seed}}
    config = settings(options, data, options.out / "unused", options.epochs, **sections)
    clips, splits, state = training.setup(config, CPU)
    fit_N = splits.fit("train+val")
    rare_N = clips.label_N[fit_N] % 2 == 1
    kept_N = torch.cat([fit_N[~rare_N], drawn(clips.label_N, fit_N[rare_N], options.keep, seed)]).sort().values
    for _ in training.fit(config, clips, splits._replace(train=kept_N, val=splits.val[:0]), state):
        pass
    state.eval_model.eval()
    seen = accuracies.predict(state.eval_model, clips, splits.test, config.input.frames, 64)
    odd_N = seen.label_N % 2 == 1
    found = metrics(seen.logits_NK, seen.label_N)
    recall = {f"recall {name}": seen.correct_N[at].double().mean().item() for name, at in
              (("frequent", ~odd_N), ("rare", odd_N))}  # fmt: skip
    return {"top-1": found["top1"], "mean class": found["mean_class"]} | recall


def main() -> None:
    """Print a row per arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="utd-mhad")
    parser.add_argument("--keep", type=int, default=1, help="training clips of each rare class")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    options.out = options.out.resolve()
    data = built(options.source, options.out)
    for name, arm in ARMS.items():
        each = [figures(options, arm, data, seed) for seed in range(options.seeds)]
        if name == "as they are":
            print(f"| arm | {' | '.join(each[0])} |\n|---|{'---|' * len(each[0])}")
        print(
            f"| {name} | {' | '.join(plus_minus(*mean_std([one[key] for one in each])) for key in each[0])} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

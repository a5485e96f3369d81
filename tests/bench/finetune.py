"""Five clips per class: training from scratch against fine-tuning another data set's run. Prints a table row per arm.

    python tests/bench/finetune.py --source utd_mhad.npz --target nw_ucla.npz --out work

The source run sees the source's training clips. Each seed draws other clips of the target's training split; the test
split is the target's. utd_mhad and nw_ucla get their joint names from arrays.py; clips of both are centred on the hip.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arrays import SETS

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

from pipeline import network, train, training, transfer  # noqa: E402 - the path is set above
from pipeline.config import from_dict, preset  # noqa: E402
from pipeline.evaluation import accuracies  # noqa: E402
from pipeline.run_folder import Metadata, Run  # noqa: E402
from tuning.results import plus_minus  # noqa: E402
from tuning.statistics import mean_std  # noqa: E402

CPU = torch.device("cpu")
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "init": {"init": True},
    "init, layer-decay 0.8": {"init": True, "optim": {"layer_decay": 0.8}},
    "init, freeze trunk": {"init": True, "train": {"freeze": "trunk"}},
}


def command(*words: object) -> None:
    """Run a command of ours."""
    subprocess.run([sys.executable, "-m", *map(str, words)], cwd=HOME, check=True, capture_output=True)


def rooted(bones: np.ndarray, root: int) -> np.ndarray:
    """The same tree with another root: stage centre takes the root."""
    left, result, seen = [tuple(bone) for bone in bones.tolist()], [], [root]
    for joint in seen:
        for bone in [one for one in left if joint in one]:
            left.remove(bone)
            other = bone[1] if bone[0] == joint else bone[0]
            result.append([joint, other])
            seen.append(other)
    return np.array(result)


def built(source: Path, folder: Path) -> Path:
    """The data file of an array file, turned and scaled."""
    out = folder / f"{source.stem}.h5"
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(source, allow_pickle=False) as file:
        arrays = dict(file)
    if source.stem in SETS:
        names, shoulders, spine = SETS[source.stem]
        arrays |= {"joint_names": np.array(names), "shoulders": np.array(shoulders), "spine": np.array(spine)}
        arrays["bones"] = rooted(arrays["bones"], names.index("hip centre"))
    if source.stem == "kard":
        arrays["X"][..., 0] *= -1  # its x axis is mirrored against the other sets
    np.savez(folder / f"{source.stem}.npz", **arrays)
    command("preprocessing.build", folder / f"{source.stem}.npz", "--out", out, "--add", "yaw", "size")
    return out


def settings(options: argparse.Namespace, data: Path, out: Path, epochs: int, **sections: Any) -> Any:
    """Settings of a run: the preset, without crop windows at the end."""
    values = preset(options.preset)
    values["input"] = {key: value for key, value in values["input"].items() if key != "protocol"}
    values["train"] |= {"epochs": epochs, "eval_every": epochs, "test_clips": 1, "self_test": False}
    for name, given in sections.items():
        values[name] = values.get(name, {}) | given if isinstance(given, dict) else given
    return from_dict(values | {"data": data, "out": out, "wandb": "off", "fast_start": True})


def drawn(label_N: torch.Tensor, train_N: torch.Tensor, each: int, seed: int) -> torch.Tensor:
    """`each` clips per class of the training split."""
    shuffled = train_N[torch.randperm(len(train_N), generator=torch.Generator().manual_seed(seed))]
    kept = [shuffled[label_N[shuffled] == label][:each] for label in label_N[train_N].unique()]
    return torch.cat(kept).sort().values


def accuracy(options: argparse.Namespace, arm: dict[str, Any], source: Path, data: Path, seed: int) -> float:
    """Test accuracy of one training on a few clips."""
    sections = {key: value for key, value in arm.items() if key != "init"}
    sections["train"] = sections.get("train", {}) | {"seed": seed}
    start = {"init": str(source)} if arm.get("init") else {}
    config = settings(options, data, options.out / "unused", options.epochs, **sections | start)
    run = Run(config.out, CPU, config)
    clips, splits = run.clips, run.splits
    torch.manual_seed(seed)
    model = network.build(config, clips, CPU)
    if start:
        record = transfer.fill(config, model, Metadata.of(run.data), Run(source, CPU))
        if config.train.freeze == "trunk":
            transfer.freeze_trunk(model, record["new"])
    few = splits._replace(train=drawn(clips.label_N, splits.fit("train+val"), options.clips, seed), val=splits.val[:0])
    state = training.fresh_state(config, model)
    for _ in training.fit(config, clips, few, state):
        pass
    state.eval_model.eval()
    return accuracies.predict(state.eval_model, clips, few.test, config.input.frames, 64).top1


def main() -> None:
    """Train what is missing; print a row per arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="utd-mhad-stgcn")
    parser.add_argument("--source-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--clips", type=int, default=5, help="per class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    options.out = options.out.resolve()
    source, data = built(options.source, options.out), built(options.target, options.out)
    config = settings(options, source, options.out / f"{options.source.stem}-{options.preset}", options.source_epochs)
    if not Run(config.out).finished:
        Run.claim(config)
        train.run(config)
    print(f"| {options.source.stem} to {options.target.stem}, {options.clips} clips per class | test accuracy, % |")
    for name in options.arms:
        figures = [accuracy(options, ARMS[name], config.out, data, seed) for seed in range(options.seeds)]
        print(f"| {name} | {plus_minus(*mean_std(figures))} |", flush=True)


if __name__ == "__main__":
    main()

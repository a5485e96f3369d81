"""Measure tries at accuracy beside the preset's training, each on validation: width 3 and 4, and masked pretraining.

    python tests/bench/tries.py bench-norms/sets.toml --sets ucla florence --seeds 3 --out bench-norms/tries.json

The file lists the data sets of tests/bench/norm_sets.py; the first protocol of each is used. All trainings have the
settings of preset utd-mhad, and three times the epochs of the study. No test clip is read.

* preset: trained from scratch
* width 3, width 4: the same with `--model.width 3` and 4
* pretrained: convolutions and norms start from a pretraining on the training clips of all sets together, after MAMP
  (Mao et al. 2023, arXiv 2308.07092): cells of PATCH frames x one joint are masked, and their motion is predicted.
  Decoder: one transposed convolution. Sets share weights whatever their joints are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from pipeline.config import Config, from_dict, preset  # noqa: E402 - the path is set above
from pipeline.data.clips import Batch  # noqa: E402
from pipeline.data.training import training_steps  # noqa: E402
from pipeline.tracking.metric_names import flat  # noqa: E402
from pipeline.training import fit, setup  # noqa: E402
from tuning.sets import DataSet, read_sets  # noqa: E402
from tuning.space import nested  # noqa: E402
from tuning.statistics import compare  # noqa: E402

PATCH, MASKED = 4, 0.6  # frames of a masked cell; share of the cells
CPU = torch.device("cpu")
LEFT_OUT = "utd-kard"  # trains on clips that are test clips of utd
ARMS: dict[str, dict[str, Any]] = {
    "preset": {},
    "width 3": {"model.width": 3.0},
    "width 4": {"model.width": 4.0},
    "pretrained": {},
}


class Part(NamedTuple):
    """One data set of the pretraining: its network shares convolutions and norms with all others."""

    config: Config
    clips: Any
    train_N: Tensor
    model: Any


def config_of(one: DataSet, seed: int, changes: dict[str, Any], epochs: int = 40) -> Config:
    """Return the settings of a training on a data set."""
    length = 3 * one.settings.get("train.epochs", epochs)
    settings = {
        "data": one.path, "out": Path("unused"), "wandb": "off", "input.protocol": one.protocol, "train.seed": seed,
        "train.epochs": length, "train.eval_every": length, "train.channels_last": True, **changes,
    }  # fmt: skip
    return from_dict(nested(flat(preset("utd-mhad"), ".") | settings))


def pretrain(sets: Sequence[DataSet], epochs: int, seed: int) -> nn.Module:
    """Return a network whose convolutions and norms were trained on the training clips of all sets."""
    parts = []
    for one in sets:
        config = config_of(one, seed, {})
        clips, splits, state = setup(config, CPU)
        parts.append(Part(config, clips, splits.fit("train"), state.model))
    shared = parts[0].model
    for part in parts[1:]:
        part.model.convolutions, part.model.norms = shared.convolutions, shared.norms
    torch.manual_seed(seed)
    decoder = nn.ConvTranspose2d(shared.convolutions[-1].out_channels, 3, kernel_size=8, stride=8)
    trained = [*shared.convolutions.parameters(), *shared.norms.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, 1e-3, weight_decay=0.05)
    for epoch in range(1, epochs + 1):
        total, steps = 0.0, 0
        for batch, part in mixed(parts, epoch, seed):
            loss = masked_motion(part.model, decoder, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, steps = total + loss.item(), steps + 1
        if epoch % 10 == 0 or epoch == 1:
            print(f"pretraining: epoch {epoch}, share of the motion not explained {total / steps:.3f}", file=sys.stderr)
    return shared


def mixed(parts: Sequence[Part], epoch: int, seed: int) -> list[tuple[Batch, Part]]:
    """Return the batches of all sets for an epoch, in random order."""
    found = []
    for part in parts:
        for step in training_steps(part.config, part.clips, part.train_N, epoch, torch.zeros((), dtype=torch.bool)):
            found += [(batch, part) for batch in step.micro_batches]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed * 1_009 + epoch))
    return [found[place] for place in order.tolist()]


def masked_motion(model: Any, decoder: nn.Module, batch: Batch) -> Tensor:
    """Return the squared error of the predicted motion of masked cells, in units of that motion's variance."""
    x_NCTVM = model.stream(batch.x_NCTVM, batch.present_NMT)
    x_NCTVM = model.input_norm(x_NCTVM, batch.present_NMT)
    present_NM = batch.present_NMT.any(-1)
    x_BCTV = x_NCTVM.permute(0, 4, 1, 2, 3)[present_NM]
    raw_BCTV = batch.x_NCTVM.permute(0, 4, 1, 2, 3)[present_NM].nan_to_num()
    bodies, _, frames, joints = x_BCTV.shape
    hidden_BTV = torch.rand(bodies, frames // PATCH, joints).lt(MASKED).repeat_interleave(PATCH, dim=1)
    features = model.trunk(x_BCTV * ~hidden_BTV.unsqueeze(1), 0)
    predicted = decoder(features)
    covered = predicted.shape[-1]
    motion = torch.zeros_like(raw_BCTV)
    motion[:, :, :-1] = raw_BCTV.diff(dim=2)
    motion = motion[..., :covered]
    scale = motion.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-4)
    error = ((predicted - motion / scale) ** 2).mean(1)
    return error[hidden_BTV[..., :covered]].mean()


def val_accuracy(one: DataSet, seed: int, changes: dict[str, Any], start: nn.Module | None) -> float:
    """Return accuracy C on val after a training, from scratch or from pretrained convolutions and norms."""
    config = config_of(one, seed, changes)
    clips, splits, state = setup(config, CPU)
    if start is not None:
        given: Any = start
        model: Any = state.model
        model.convolutions.load_state_dict(given.convolutions.state_dict())
        model.norms.load_state_dict(given.norms.state_dict())
    *_, last = fit(config, clips, splits, state)
    accuracy: float = last["accuracies"]["C"]
    return accuracy


def main() -> None:
    """Measure, and print a table; the same command measures what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="sets.toml")
    parser.add_argument("--sets", nargs="+", default=["ucla", "florence"], help="those that are trained on")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain", type=int, default=60, help="epochs")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    first: dict[str, DataSet] = {}
    for one in read_sets(options.file):
        first.setdefault(one.name.split(",")[0], one)
    done: dict[str, float] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for seed in range(options.seeds):
        start = None
        for name in options.sets:
            for arm in options.arms:
                key = f"{name}, {arm}, {seed}"
                if key in done:
                    continue
                if arm == "pretrained" and start is None:
                    start = pretrain([one for own, one in first.items() if own != LEFT_OUT], options.pretrain, seed)
                done[key] = val_accuracy(first[name], seed, ARMS[arm], start if arm == "pretrained" else None)
                options.out.write_text(json.dumps(done, indent=1))
                print(f"{key}: {100 * done[key]:.1f}", file=sys.stderr)
    for name in options.sets:
        values = {arm: [done[f"{name}, {arm}, {seed}"] for seed in range(options.seeds)] for arm in options.arms}
        for arm, found in values.items():
            effect = compare(found, values["preset"]).effect if "preset" in values and arm != "preset" else None
            shown = "" if effect is None else f", {100 * effect:+.1f}"
            print(f"{name}, {arm}: {100 * statistics.mean(found):.1f} {[round(100 * one, 1) for one in found]}{shown}")


if __name__ == "__main__":
    main()

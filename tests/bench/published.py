"""Time a training step of `ctrgcn` and `hcn` beside the code that their papers' readers use, in one run.

    git clone https://github.com/Uason-Chen/CTR-GCN && git clone https://github.com/huguyuehuhu/HCN-pytorch
    python tests/bench/published.py --ctrgcn CTR-GCN --hcn HCN-pytorch

The same batch, frames, classes and joints of NTU RGB+D, random coordinates, a second body in 27 % of the clips, zeros
where there is none; forward, backward and a step of AdamW. Theirs as it is, in fp32 and, where the CPU has instructions
for it, in bf16; ours with masked norms in channels_last. Rounds alternate; printed are medians and ratios to theirs in
fp32. Nothing of theirs is part of this project: the clones stay where they are.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import sys
import time
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import torch  # noqa: E402 - the path is set above
from torch import Tensor, nn  # noqa: E402
from train import NATIVE  # noqa: E402

from pipeline.models import ModelConfig, build_model  # noqa: E402
from pipeline.norms import NormConfig  # noqa: E402
from preprocessing.layouts import LAYOUTS  # noqa: E402

FRAMES, JOINTS, CLASSES, SECOND = 64, 25, 60, 0.27
PRECISIONS = ("fp32", "bf16") if NATIVE else ("fp32",)
Forward = Callable[[Tensor, Tensor], Tensor]


def ours(name: str) -> Forward:
    """Return our network of that name, at its published width."""
    bones = tuple(LAYOUTS["ntu25"].bones)
    network = build_model(ModelConfig(name), NormConfig(), FRAMES, JOINTS, CLASSES, bones)
    return network.to(memory_format=torch.channels_last).train()  # type: ignore[no-any-return, call-overload]


def ctrgcn(clone: Path) -> Forward:
    """Return CTR-GCN's own network."""
    sys.path.insert(0, str(clone))
    from model.ctrgcn import Model  # type: ignore[import-not-found]

    network = Model(CLASSES, JOINTS, 2, "graph.ntu_rgb_d.Graph", {"labeling_mode": "spatial"}).train()
    return lambda x, present: network(x)


def hcn(clone: Path) -> Forward:
    """Return HCN-pytorch's own network; what it imports beside torch only sets its first weights."""
    sys.path.insert(0, str(clone))
    sys.modules.pop("model", None)
    tools = types.ModuleType("utils.utils")
    tools.initial_model_weight = lambda layers: None  # type: ignore[attr-defined]
    package = types.ModuleType("utils")
    package.utils = tools  # type: ignore[attr-defined]
    sys.modules |= {"utils": package, "utils.utils": tools, "torchvision": types.ModuleType("torchvision")}
    from model.HCN import HCN  # type: ignore[import-not-found]

    network = HCN(3, JOINTS, 2, 64, FRAMES, CLASSES).train()
    return lambda x, present: network(x)


def stepper(forward: Forward, parameters: list[nn.Parameter], batch: int, precision: str) -> Callable[[], None]:
    """Return a function that makes one training step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, FRAMES, JOINTS, 2, generator=generator)
    present = torch.ones(batch, 2, FRAMES, dtype=torch.bool)
    present[round(SECOND * batch) :, 1] = False
    x[round(SECOND * batch) :, ..., 1] = 0.0
    label_N = torch.arange(batch) % CLASSES
    optimizer = torch.optim.AdamW(parameters, 1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            logits_NK = forward(x, present)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits_NK.float(), label_N).backward()
        optimizer.step()

    return step


def parameters_of(forward: Forward) -> list[nn.Parameter]:
    """Return the parameters of a network, or of the one that a function holds."""
    network = forward if isinstance(forward, nn.Module) else inspect.getclosurevars(forward).nonlocals["network"]
    return list(network.parameters())


def main() -> None:
    """Print a table row per network and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctrgcn", type=Path, help="clone of CTR-GCN")
    parser.add_argument("--hcn", type=Path, help="clone of HCN-pytorch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, load in (("ctrgcn", ctrgcn), ("hcn", hcn)):
        if (clone := getattr(options, name)) is None:
            continue
        ways: dict[str, Callable[[], None]] = {}
        for precision in PRECISIONS:
            for owner, forward in (("theirs", load(clone)), ("ours", ours(name))):
                ways[f"{owner}, {precision}"] = stepper(forward, parameters_of(forward), options.batch, precision)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(options.rounds + 1):
            for way, step in ways.items():
                began = time.perf_counter()
                for _ in range(options.steps):
                    step()
                if number:  # the first round warms up
                    rates[way].append(options.batch * options.steps / (time.perf_counter() - began))
        base = statistics.median(rates["theirs, fp32"])
        for way, found in rates.items():
            print(f"{name}: {way}: {statistics.median(found):.1f} clips/s, {statistics.median(found) / base:.2f}")


if __name__ == "__main__":
    main()

"""Measure the speed of training on a GPU: clips of the size of NTU RGB+D 60's, the plain way and ours, as ratios.

    python tests/bench/gpu.py
    python tests/bench/gpu.py --clips 600 --graph-clips 64 --test 200 --device cpu   # whether it runs at all
    python tests/bench/gpu.py --part kernels    # norms and messages alone
    python tests/bench/gpu.py --part bits       # captured steps equal those that are not
    python tests/bench/gpu.py --part captured   # and are so fast
    python tests/bench/gpu.py --part captured --clips 256 --graph-clips 64 --epochs 1 --width 0.25 --device cpu

Clips are random walks: 1.2 bodies per clip, 40 to 120 frames, 60 classes; for `cnn` as many as NTU RGB+D 60 has, for
`stgcn` fewer. The plain ways are those of tests/bench/train.py and tests/bench/models.py; products and convolutions of
all of them in TF32. Where there is no GPU this says so and measures nothing. On a CPU steps are recorded and called
again, which shows that the script runs, and no speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import models  # noqa: E402 - the path is set above
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402
from train import BATCH, FAST, FRAMES, MASKED, Way, our_epochs, plain_epochs, settings  # noqa: E402

from pipeline import graphs, preflight  # noqa: E402
from pipeline.config import from_dict  # noqa: E402
from pipeline.models.graph import SUBSETS  # noqa: E402
from pipeline.training import fit, setup  # noqa: E402
from preprocessing import ntu  # noqa: E402
from preprocessing.export import main as export  # noqa: E402
from preprocessing.hdf5 import Contents, Spool, write  # noqa: E402

TRAIN, TEST, CLASSES = 40091, 16487, 60  # NTU RGB+D 60, cross-subject
CHECKED = 112  # clips of the comparison of bits
LARGE, COMPILED = {"batch_size": 512}, {"compile": True}
WAYS: dict[str, Way] = {
    "fp32, masked": MASKED,
    "bf16, channels last, masked": MASKED | FAST,
    "the same, batch 512": MASKED | {"train": FAST["train"] | LARGE},
    "the same, batch 512, compiled": MASKED | {"train": FAST["train"] | LARGE | COMPILED},
}
GRAPH: Way = MASKED | {"model": {"name": "stgcn"}}
GRAPH_WAYS: dict[str, Way] = {
    "stgcn, fp32": GRAPH,
    "stgcn, bf16, channels last": GRAPH | FAST,
}


class Goal(NamedTuple):
    """A network, the clips that it trains on, and the clips per second that are asked for, with their reason."""

    model: str
    batch: int
    frames: int
    clips: str
    """The option with the number of clips."""
    rates: dict[str, float]


GOALS = (
    Goal("ctrgcn", 16, 52, "graph_clips", {"10 ms per step": 16 / 0.010}),
    Goal("stgcn", 64, FRAMES, "graph_clips", {"5 times 1,812 clips/s": 5 * 1812}),
    Goal(
        "cnn",
        64,
        FRAMES,
        "clips",
        {"5 times 12,838 clips/s": 5 * 12838, "an epoch of NTU RGB+D 60 in 1 s": TRAIN / 1.0},
    ),
)
NUMBERS: dict[str, Way] = {"fp32": {"train": {}}, "bf16, channels last": FAST}
# What is compared bit for bit: augmentation, averages, clipping, a schedule and a masked norm of the coordinates.
WHOLE: Way = {
    "norm": {"persons": "masked", "input": "vc_masked"},
    "augment": {"crop": 0.5, "yaw": 0.5, "noise": 0.01},
    "optim": {"ema": 0.99, "clip_norm": 1.0, "schedule": "cosine"},
}


def make(path: Path, train: int, test: int) -> None:
    """A data file of random walks."""
    rng = np.random.default_rng(0)
    clips = train + test
    frames_N, bodies_N = rng.integers(40, 121, clips), 1 + (rng.random(clips) < 0.2)
    joints = len(ntu.JOINT_NAMES)
    start = []
    with Spool(path.parent, joints) as spool:
        for frames, bodies in zip(frames_N, bodies_N, strict=True):
            for _ in range(bodies):
                walk = rng.normal(0, 0.02, (frames, joints, 3)).cumsum(0, dtype=np.float32)
                start.append(spool.append(walk, np.ones(frames, bool)))
        zero = np.zeros(clips, np.int64)
        columns = {"name": np.array([f"clip{i:05d}" for i in range(clips)]), "label": rng.integers(0, CLASSES, clips)}
        columns |= dict.fromkeys(("setup", "camera", "subject", "replication"), zero)
        first = np.cumsum(bodies_N) - bodies_N
        owner = np.repeat(np.arange(clips), bodies_N)
        every = np.arange(clips)
        contents = Contents(
            dataset="random walks", recipe={"stages": []}, joint_names=list(ntu.JOINT_NAMES), bones=ntu.BONES,
            fps=30.0, class_names=[str(i) for i in range(CLASSES)], body_clip=owner,
            body_slot=np.arange(len(owner)) - first[owner], body_start=np.array(start),
            clips=columns | {"frames": frames_N, "first_body": first, "bodies": bodies_N},
            splits={"xsub": {"train": every[:train], "val": every[:0], "test": every[train:]}}, default_protocol="xsub",
        )  # fmt: skip
        write(path, contents, spool)


def files(work: Path, train: int, test: int) -> tuple[Path, Path]:
    """Our data file and its dense export."""
    data, dense = work / f"clips{train}.h5", work / f"dense{train}.h5"
    make(data, train, test)
    export([str(data), "--format", "dense", "--out", str(dense), "--frames", str(FRAMES)])
    return data, dense


def graph(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print how fast `stgcn` and the plain ST-GCN train, in small and in large batches."""
    data, dense = files(work, options.graph_clips, BATCH)
    print(f"stgcn on {options.graph_clips} training clips, 1.2 bodies per clip", flush=True)
    for batch in (BATCH, LARGE["batch_size"]):
        models.training(data, dense, options.rounds, GRAPH_WAYS, device, batch)


def convolutional(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print how fast `cnn` trains in each way."""
    data, dense = files(work, options.clips, options.test)
    size = data.stat().st_size / 1e9
    print(f"cnn on {options.clips} training clips, 1.2 bodies per clip, {size:.2f} GB", flush=True)
    plain = statistics.median(plain_epochs(dense, torch.arange(options.clips), CLASSES, 1, device))
    print(f"{'plain':32} {plain:9.0f} clips/s, an epoch {options.clips / plain:7.2f} s", flush=True)
    for way, changes in WAYS.items():
        rates, share = our_epochs(data, changes, options.epochs, device)
        rate = statistics.median(rates)
        print(
            f"{way:32} {rate:9.0f} clips/s, an epoch {options.clips / rate:7.2f} s, {rate / plain:6.1f} times the "
            f"plain way; a clip evaluated costs {share:.2f} of one trained on",
            flush=True,
        )


def losses_and_state(data: Path, way: dict[str, Any], device: torch.device) -> tuple[list[float], dict[str, Any], int]:
    """Loss of each epoch, the state at the end, and the number of replayed steps."""
    config, usage = from_dict(way | {"data": data, "out": Path("unused"), "wandb": "off"}), graphs.Usage()
    clips, splits, state = setup(config, device)
    recorder = graphs.DirectRecorder() if device.type == "cpu" else None
    records = list(fit(config, clips, splits, state, usage=usage, recorder=recorder))
    return [record["train"]["loss"] for record in records], state.save(), usage.replayed


def differing(mine: Any, theirs: Any) -> int:
    """Number of tensors and values that differ in a bit."""
    pairs = zip(tree_leaves(mine), tree_leaves(theirs), strict=True)
    return sum(not torch.equal(a, b) if isinstance(a, Tensor) else a != b for a, b in pairs)


def bits(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print whether captured steps have the bits of the others, with deterministic algorithms."""
    data = work / "bits.h5"
    make(data, CHECKED, BATCH)
    preflight.deterministic_algorithms(True)
    for model in ("cnn", "hcn", "stgcn", "ctrgcn"):
        for numbers, way in NUMBERS.items():
            found = []
            for switch in ("off", "auto"):
                few = {"epochs": 3, "eval_every": 3, "batch_size": 16, "graphs": switch, "deterministic": True}
                small = {"model": {"name": model, "width": 0.25}, "train": few | way["train"]}
                found.append(losses_and_state(data, WHOLE | small, device))
            count = differing(found[0][:2], found[1][:2])
            print(f"{model}, {numbers}: {found[1][2]} steps replayed, {count} tensors or losses differ", flush=True)
    preflight.deterministic_algorithms(False)


def goal_rates(
    data: Path, goal: Goal, numbers: Way, switch: str, options: argparse.Namespace, device: torch.device
) -> list[float]:
    """Print the counts of a training; return clips per second of each epoch after the first, which captures."""
    epochs, model = options.epochs, {"name": goal.model, "width": options.width}
    train = {"batch_size": goal.batch, "graphs": switch, "eval_every": epochs + 1} | numbers["train"]
    way = MASKED | {"model": model, "input": {"frames": goal.frames, "fit": "train+val"}}
    config, usage = from_dict(settings(data, Path("unused"), epochs + 1, way | {"train": train})), graphs.Usage()
    clips, splits, state = setup(config, device)
    recorder = graphs.DirectRecorder() if device.type == "cpu" else None
    records = list(fit(config, clips, splits, state, usage=usage, recorder=recorder))
    print(f"  graphs {switch}: {usage.replayed} of {usage.steps} steps replayed; reason: {usage.reason}", flush=True)
    return [record["clips_per_second"] for record in records[1:]]


def captured(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print how fast captured steps are, beside the goals."""
    data = {clips: work / f"captured{clips}.h5" for clips in {options.clips, options.graph_clips}}
    for clips, path in data.items():
        make(path, clips, BATCH)
    for goal in GOALS:
        count = getattr(options, goal.clips)
        for numbers, way in NUMBERS.items():
            print(f"{goal.model}, batch {goal.batch}, {numbers}", flush=True)
            off, on = (
                statistics.median(goal_rates(data[count], goal, way, switch, options, device))
                for switch in ("off", "auto")
            )
            print(
                f"  {on:.0f} clips/s, {1000 * goal.batch / on:.2f} ms per step, an epoch of {TRAIN} clips "
                f"{TRAIN / on:.2f} s; {on / off:.2f} times without capture",
                flush=True,
            )
            for words, rate in goal.rates.items():
                print(f"  goal, {words}: {'met' if on >= rate else 'missed'}", flush=True)


def kernels(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print what a batch norm and the messages of `stgcn` cost forward and backward by torch's kernels and by ours."""
    if device.type != "cuda":
        print("kernels: for a GPU alone")
        return
    from triton.testing import do_bench_cudagraph

    from pipeline.kernels.graph import aggregate
    from pipeline.kernels.norm import batch_norm

    bodies, joints = round(1.2 * LARGE["batch_size"]), len(ntu.JOINT_NAMES)
    for channels, frames in ((64, FRAMES), (128, FRAMES // 2), (256, FRAMES // 4)):
        x = torch.randn(bodies, channels, frames, joints, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        z = torch.randn(bodies * frames, SUBSETS * joints, channels, device=device, dtype=torch.bfloat16)
        a = torch.rand(joints, SUBSETS * joints, device=device, requires_grad=True)
        weight, bias, mean, var = (torch.ones(channels, device=device) for _ in range(4))
        weight.requires_grad_(), bias.requires_grad_()
        norm = partial(nn.functional.batch_norm, training=True)
        ways: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
            "norm, torch's": (norm, (x, mean, var, weight, bias)),
            "norm, ours": (partial(batch_norm, momentum=0.1, eps=1e-5), (x, weight, bias, mean, var)),
            "messages, torch's": (lambda a, z: a.to(z).expand(len(z), -1, -1) @ z, (a, z)),
            "messages, ours": (aggregate, (a, z)),
        }
        copied = do_bench_cudagraph(x.clone, return_mode="median")
        print(f"features {tuple(x.shape)}, bf16, channels last, copied in {copied:.3f} ms", flush=True)
        for way, (function, given) in ways.items():
            took = do_bench_cudagraph(partial(there_and_back, function, given), return_mode="median")
            print(f"{way:20} forward and backward {took:6.3f} ms, {took / copied:5.1f} copies", flush=True)


def there_and_back(function: Callable[..., Tensor], given: tuple[Tensor, ...]) -> None:
    """Forward and backward, to features too."""
    given = tuple(part.detach().requires_grad_() if part.dtype == torch.bfloat16 else part for part in given)
    y = function(*given)
    torch.autograd.grad(y, [part for part in given if part.requires_grad], y.detach())


PARTS = {
    "captured": captured,
    "graph": graph,
    "convolutional": convolutional,
    "kernels": kernels,
    "bits": bits,  # last: deterministic algorithms are slower
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=TRAIN, help="training clips of cnn")
    parser.add_argument("--graph-clips", type=int, default=12800, help="training clips of stgcn")
    parser.add_argument("--test", type=int, default=TEST, help="further clips")
    parser.add_argument("--epochs", type=int, default=3, help="of cnn and captured steps, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="of stgcn and the plain network, interleaved")
    parser.add_argument("--width", type=float, default=1.0, help="of the networks of captured steps")
    parser.add_argument("--part", choices=PARTS, help="one of them; else all")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here: not measured")
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(what, flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for part in [options.part] if options.part else PARTS:
            PARTS[part](Path(name), options, device)


if __name__ == "__main__":
    main()

"""How fast training is on a GPU: clips of the size of NTU RGB+D 60's, the plain way and ours, as ratios.

    python tests/bench/gpu.py
    python tests/bench/gpu.py --clips 600 --graph-clips 64 --test 200 --device cpu   # whether it runs at all
    python tests/bench/gpu.py --part norms    # which way a norm is fastest

Clips are random walks: 1.2 bodies a clip, 40 to 120 frames, 60 classes; for `cnn` as many as NTU RGB+D 60 has, for
`stgcn` fewer. The plain ways are those of tests/bench/train.py and tests/bench/models.py; products and convolutions of
all of them in TF32. Where there is no GPU this says so and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import models  # noqa: E402 - the path is set above
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils import benchmark  # noqa: E402
from train import BATCH, FAST, FRAMES, MASKED, Way, our_epochs, plain_epochs  # noqa: E402

from preprocessing import ntu  # noqa: E402
from preprocessing.export import main as export  # noqa: E402
from preprocessing.hdf5 import Contents, Spool, write  # noqa: E402

TRAIN, TEST, CLASSES = 40091, 16487, 60  # NTU RGB+D 60, cross-subject
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
    "the same, compiled": GRAPH | {"train": FAST["train"] | COMPILED},
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
    print(f"stgcn on {options.graph_clips} training clips, 1.2 bodies a clip", flush=True)
    for batch in (BATCH, LARGE["batch_size"]):
        models.training(data, dense, options.rounds, GRAPH_WAYS, device, batch)


def convolutional(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print how fast `cnn` trains in each way."""
    data, dense = files(work, options.clips, options.test)
    size = data.stat().st_size / 1e9
    print(f"cnn on {options.clips} training clips, 1.2 bodies a clip, {size:.2f} GB", flush=True)
    plain = statistics.median(plain_epochs(dense, torch.arange(options.clips), CLASSES, 1, device))
    print(f"{'plain':32} {plain:9.0f} clips/s, an epoch {options.clips / plain:7.2f} s", flush=True)
    for way, settings in WAYS.items():
        rates, share = our_epochs(data, settings, options.epochs, device)
        rate = statistics.median(rates)
        print(
            f"{way:32} {rate:9.0f} clips/s, an epoch {options.clips / rate:7.2f} s, {rate / plain:6.1f} times the "
            f"plain way; a clip evaluated costs {share:.2f} of one trained on",
            flush=True,
        )


def scale_and_shift(x: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh norm's, which get gradients."""
    ones, zeros = (make(x.shape[1], device=x.device, requires_grad=True) for make in (torch.ones, torch.zeros))
    return ones, zeros


def normalized(x: Tensor) -> Tensor:
    """By the statistics of the batch."""
    return nn.functional.batch_norm(x, None, None, *scale_and_shift(x), True)


def body_by_body(x: Tensor) -> Tensor:
    """The same, every sum first over a body's places and then over bodies.

    Sums of an unknown number of terms are not shared out over the GPU by what torch compiles (pytorch#96971,
    pytorch#102670); those over places have a known number.
    """
    wide, bodies = x.float(), len(x)

    def everywhere(value_C: Tensor) -> Tensor:
        return value_C.expand(bodies, -1)[:, :, None, None]

    mean_C = wide.mean((2, 3)).mean(0)
    centred = wide - everywhere(mean_C)
    variance_C = centred.square().mean((2, 3)).mean(0)
    scale_C, shift_C = scale_and_shift(x)
    y = centred * everywhere(scale_C * torch.rsqrt(variance_C + 1e-5)) + everywhere(shift_C)
    return y.to(x.dtype)


def norms(work: Path, options: argparse.Namespace, device: torch.device) -> None:
    """Print what a batch norm of `stgcn` costs forward and backward, and in units of copying its input."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "copied": torch.clone,
        "as it is": normalized,
        "in float32": lambda x: normalized(x.float()).to(x.dtype),
        "in float16": lambda x: normalized(x.half()).to(x.dtype),
        "channels first": lambda x: normalized(x.contiguous()).contiguous(memory_format=torch.channels_last),
        "body by body": body_by_body,
        "compiled": torch.compile(normalized, dynamic=True),
        "compiled, of fixed shape": torch.compile(normalized, dynamic=False),
        "compiled, body by body": torch.compile(body_by_body, dynamic=True),
    }
    bodies = round(1.2 * min(LARGE["batch_size"], options.graph_clips))
    for channels, frames in ((64, FRAMES), (128, FRAMES // 2), (256, FRAMES // 4)):
        x = torch.randn(bodies, channels, frames, len(ntu.JOINT_NAMES), device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        print(f"norms of {tuple(x.shape)}, bf16, channels last, forward and backward", flush=True)
        copied = 0.0
        for way, function in ways.items():
            both = "y = f(x); y.backward(y.detach())"
            timer = benchmark.Timer(both, globals={"f": function, "x": x}, num_threads=torch.get_num_threads())
            took = timer.blocked_autorange(min_run_time=options.seconds).median
            copied = copied or took
            print(f"{way:32} {1000 * took:9.3f} ms {took / copied:6.1f} copies", flush=True)


PARTS = {"graph": graph, "convolutional": convolutional, "norms": norms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=TRAIN, help="training clips of cnn")
    parser.add_argument("--graph-clips", type=int, default=12800, help="training clips of stgcn")
    parser.add_argument("--test", type=int, default=TEST, help="further clips")
    parser.add_argument("--epochs", type=int, default=3, help="of cnn measured, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="of stgcn and the plain network, interleaved")
    parser.add_argument("--seconds", type=float, default=1.0, help="that each way of a norm is timed for")
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

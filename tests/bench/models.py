"""Measure how fast a trained network predicts, and how fast `stgcn` trains beside a plain ST-GCN of the same size.

    make bench
    python tests/bench/models.py --clips 260 --rounds 3

Ours in channels_last, in bf16 where the CPU has instructions for it. The plain ST-GCN (Yan et al. 2018) as one writes
it: float32, channels first, all body slots in one call, a full convolution over nine frames, as many parameters as ours
(its channels are scaled until they are), and the plain data path of tests/bench/train.py. Answers: `pipeline.predict`
from .skeleton to probabilities, and the exported ONNX file on clips that are ready, both in batches of 32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import onnxruntime  # noqa: E402 - the path is set above
import torch  # noqa: E402
import train as bench  # noqa: E402
from recordings import link, recordings  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from pipeline import train  # noqa: E402
from pipeline.config import from_dict  # noqa: E402
from pipeline.models.graph import BLOCKS, SUBSETS, adjacency  # noqa: E402
from pipeline.models.plan import Bones  # noqa: E402
from pipeline.predict import BATCH, Predictor, load  # noqa: E402
from pipeline.predict import main as predict  # noqa: E402
from pipeline.run_folder import Run  # noqa: E402
from pipeline.training import setup  # noqa: E402
from preprocessing.build import main as build  # noqa: E402
from preprocessing.export import main as export  # noqa: E402

CPU = torch.device("cpu")


class PlainBlock(nn.Module):
    """Graph convolution, norm, ReLU, nine frames of convolution, norm, dropout, and past it all."""

    def __init__(self, a_KVV: Tensor, inside: int, outside: int, stride: int, skip: bool) -> None:
        super().__init__()
        self.a_KVV = nn.Parameter(a_KVV.clone())
        self.spatial = nn.Conv2d(inside, SUBSETS * outside, 1)
        self.norm = nn.BatchNorm2d(outside)
        over_time = nn.Conv2d(outside, outside, (9, 1), (stride, 1), (4, 0))
        self.temporal = nn.Sequential(nn.ReLU(), over_time, nn.BatchNorm2d(outside), nn.Dropout(0.5))
        self.around: nn.Module | None = nn.Identity() if skip else None
        if skip and (inside != outside or stride != 1):
            self.around = nn.Sequential(nn.Conv2d(inside, outside, 1, (stride, 1)), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.spatial(x).unflatten(1, (SUBSETS, -1))
        y = self.temporal(self.norm(torch.einsum("nkctv,kvw->nctw", y, self.a_KVV)))
        return torch.relu(y if self.around is None else y + self.around(x))


class PlainStGcn(nn.Module):
    """The published network, its channels times `width`."""

    def __init__(self, bones: Bones, joints: int, classes: int, width: float) -> None:
        super().__init__()
        a_KVV, inside = adjacency(bones, joints), 3
        blocks: list[nn.Module] = []
        for published, stride in BLOCKS:
            outside = round(published * width)
            blocks.append(PlainBlock(a_KVV, inside, outside, stride, skip=bool(blocks)))
            inside = outside
        self.norm = nn.BatchNorm1d(3 * joints)
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Linear(inside, classes)

    def forward(self, x_NCTVM: Tensor) -> Tensor:
        n, c, t, v, m = x_NCTVM.shape
        x = x_NCTVM.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        x = self.norm(x).view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
        logits: Tensor = self.classify(self.blocks(x).mean((2, 3)).view(n, m, -1).mean(1))
        return logits


def parameters(model: nn.Module) -> int:
    """Their number."""
    return sum(p.numel() for p in model.parameters())


def of_the_same_size(target: int, make: Callable[[float], nn.Module]) -> nn.Module:
    """The network whose width, in steps of a hundredth, comes nearest to `target` parameters."""
    return min((make(step / 100) for step in range(30, 120)), key=lambda model: abs(parameters(model) - target))


# Ways to train `stgcn` in: what each changes in the settings.
NUMBERS: bench.Way = bench.FAST if bench.NATIVE else {"train": {"channels_last": True}}
WAYS: dict[str, bench.Way] = {"stgcn": bench.MASKED | NUMBERS | {"model": {"name": "stgcn"}}}


def training(
    data: Path,
    dense: Path,
    rounds: int,
    ways: dict[str, bench.Way],
    device: torch.device = CPU,
    batch: int = bench.BATCH,
) -> None:
    """Print clips per second of the plain network and of ours in each way, interleaved, in batches of one size."""
    some = next(iter(ways.values()))
    clips, splits, state = setup(from_dict(bench.settings(data, Path("unused"), 1, some)), device)
    train_N = splits.fit("train+val")
    plain = of_the_same_size(
        parameters(state.model), lambda width: PlainStGcn(clips.bones, clips.joints, clips.classes, width)
    )
    print(f"parameters: ours {parameters(state.model)}, plain {parameters(plain)}; batch {batch}", flush=True)
    ours: dict[str, list[float]] = {way: [] for way in ways}
    theirs = []
    for _ in range(rounds):
        theirs += bench.plain_epochs(dense, train_N, clips.classes, 1, device, plain, batch)
        for way, what in ways.items():
            changed = what | {"train": what.get("train", {}) | {"batch_size": batch}}
            ours[way] += bench.our_epochs(data, changed, 1, device)[0]
    plain_rate = statistics.median(theirs)
    print(f"plain ST-GCN: {plain_rate:.0f} clips/s")
    for way, rates in ours.items():
        rate = statistics.median(rates)
        print(f"{way}: {rate:.0f} clips/s, {rate / plain_rate:.2f} times the plain way", flush=True)


def answers(data: Path, folder: Path, work: Path, rounds: int) -> None:
    """Print clips per second of predict and of the ONNX file."""
    paths = sorted(folder.glob("*.skeleton"))[: 8 * BATCH]
    for name in ("cnn", "stgcn"):
        run, file = work / name, work / f"{name}.onnx"
        config = from_dict(bench.settings(data, run, 1, {**bench.MASKED, **NUMBERS, "model": {"name": name}}))
        Run.claim(config)
        train.run(config)
        if predict([str(run), "--onnx", str(file)]):
            raise SystemExit("the export failed")
        predictor = load(run)
        session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
        ready = predictor.gathered([predictor.clean(path) for path in paths])
        batches = [ready.batch(index_N, bench.FRAMES) for index_N in torch.arange(len(paths)).split(BATCH)]
        given = [{"x": batch.x_NCTVM.numpy(), "present": batch.present_NMT.numpy()} for batch in batches]
        raw = seconds(rounds, partial(from_recordings, predictor, paths))
        print(f"{name}: predict, from .skeleton: {len(paths) / raw:.0f} clips/s")
        exported = seconds(rounds, lambda: [session.run(None, one) for one in given])  # noqa: B023 - called at once
        print(f"{name}: ONNX, clips ready: {len(paths) / exported:.0f} clips/s", flush=True)


def from_recordings(predictor: Predictor, paths: list[Path]) -> None:
    """Read, clean, answer."""
    predictor.answer([predictor.clean(path) for path in paths])


def seconds(rounds: int, work: Callable[[], object]) -> float:
    """Median of `rounds`, after one to warm up."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=260, help="recordings, about half of them trained on")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        base, kind = recordings(work)
        folder = link(base, work / "clips", options.clips)
        data, dense = work / "clips.h5", work / "dense.h5"
        if build([str(folder), "--out", str(data), "--allow-rejects"]):
            raise SystemExit("the build failed")
        export([str(data), "--format", "dense", "--out", str(dense), "--frames", str(bench.FRAMES)])
        print(f"{kind}; load {os.getloadavg()[0]:.1f}")
        answers(data, folder, work, options.rounds)
        training(data, dense, options.rounds, WAYS)


if __name__ == "__main__":
    main()

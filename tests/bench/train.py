"""Measure the speed of training: side by side in one run, same network, batch and clips, warm, medians, as ratios.

    make bench
    python tests/bench/train.py --clips 2000 --rounds 3

The plain way: float32, channels first, one call of the trunk a body, a Dataset that reads one sample at a time from
HDF5, a DataLoader with a worker a core. Ours: `pipeline.training.fit` on the same clips, from the command line's
settings. Clips are those of tests/bench/recordings.py (1.26 bodies per clip where the real ones are).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOME))

import h5py  # noqa: E402 - the path is set above
import torch  # noqa: E402
from build import memory_of  # noqa: E402
from recordings import link, recordings  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from pipeline.config import from_dict  # noqa: E402
from pipeline.evaluation import accuracies  # noqa: E402
from pipeline.preflight import precision_note  # noqa: E402
from pipeline.training import fit, setup  # noqa: E402
from preprocessing.build import main as build  # noqa: E402
from preprocessing.export import main as export  # noqa: E402

NTU60 = 40091  # training clips, cross-subject
BATCH, FRAMES, CPU = 64, 64, torch.device("cpu")
Way = dict[str, dict[str, Any]]  # what it changes in the settings
PLAIN: Way = {"norm": {"kind": "bn", "persons": "loop"}}
MASKED: Way = {"norm": {"kind": "bn", "persons": "masked"}}
FAST: Way = {"train": {"precision": "bf16", "channels_last": True}}
# What two ranks exchange: gradients alone, or batch statistics too; a larger batch has fewer steps to exchange in.
EXCHANGES = {
    "batch 64, statistics synchronised": [],
    "batch 128, statistics synchronised": ["--train.batch-size", "128"],
    "batch 128, each rank its own statistics": ["--train.batch-size", "128", "--norm.no-sync"],
}
# A CPU without instructions for bf16 imitates it, so slowly that there is nothing to compare.
NATIVE = not precision_note("bf16", CPU, torch.cpu.get_capabilities())
GROUPS = {  # name -> parts of the profiler's names; the first that fits
    "one pass over norm, max-pool, ReLU": ("poolednorm",),
    "convolutions": ("conv",),
    "batch norm": ("norm",),
    "max-pool": ("max_pool",),
    "ReLU": ("relu", "threshold"),
    "copies and casts": ("copy", "clone", "index", "cat", "stack"),
    "optimizer": ("adam", "lerp", "addc", "sqrt", "optimizer"),
    "linear layers": ("addmm", "mm", "linear"),
    "fills": ("fill", "zero"),
    "sums and squares": ("sum", "mean", "square", "mul", "div", "add", "sub"),
}
LAST: Way = {"train": {"channels_last": True}}
WAYS = {"fp32, loop": PLAIN, "fp32, masked": MASKED, "fp32, channels last, masked": MASKED | LAST} | (
    {"bf16, channels last, masked": MASKED | FAST} if NATIVE else {}
)
PRECISIONS: dict[str, list[str]] = {"fp32": [], "fp32, channels last": ["--train.channels-last"]} | (
    {"bf16": ["--train.precision", "bf16", "--train.channels-last"]} if NATIVE else {}
)


class PlainDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One sample at a time from the dense export, each worker with a handle of its own."""

    def __init__(self, path: Path, index: Tensor) -> None:
        self.path, self.index = path, index
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        at = int(self.index[i])
        return torch.from_numpy(self.file["x"][at]), torch.tensor(int(self.file["y"][at]))


class PlainNetwork(nn.Module):
    """The question's network as one writes it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        blocks, width = [], 3
        for wider in (32, 64, 128):
            blocks += [nn.Conv2d(width, wider, 3, padding=1), nn.BatchNorm2d(wider), nn.ReLU(), nn.MaxPool2d(2)]
            width = wider
        self.trunk = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Linear(128 * 8 * 3, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, classes)
        )

    def forward(self, x_NCTVM: Tensor) -> Tensor:
        bodies = [self.trunk(x_NCTVM[..., body]) for body in range(x_NCTVM.shape[-1])]
        logits: Tensor = self.head(torch.maximum(*bodies).flatten(1))
        return logits


def plain_epochs(
    dense: Path,
    index: Tensor,
    classes: int,
    epochs: int,
    device: torch.device = CPU,
    model: nn.Module | None = None,
    batch: int = BATCH,
) -> list[float]:
    """Clips per second of each epoch after the first; of the question's network, or of another plain one."""
    torch.manual_seed(0)
    model = (model or PlainNetwork(classes)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loader = torch.utils.data.DataLoader(
        PlainDataset(dense, index), batch, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True
    )
    rates = []
    for _ in range(epochs + 1):
        began = time.perf_counter()
        for x_NCTVM, label_N in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x_NCTVM.to(device)), label_N.to(device)).backward()
            optimizer.step()
        wait(device)
        rates.append(len(index) / (time.perf_counter() - began))
    return rates[1:]


def settings(data: Path, out: Path, epochs: int, way: Way) -> dict[str, Any]:
    """Settings for `from_dict`: the way, and an evaluation after each epoch, so that it is warm as well."""
    train = {"epochs": epochs, "eval_every": 1, "batch_size": BATCH} | way.get("train", {})
    return {"data": data, "out": out, "wandb": "off", "input": {"frames": FRAMES, "fit": "train+val"}} | way | {
        "train": train
    }  # fmt: skip


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def our_epochs(data: Path, way: Way, epochs: int, device: torch.device = CPU) -> tuple[list[float], float]:
    """Clips per second of each epoch after the first; what evaluating a clip costs, in units of training on one."""
    config = from_dict(settings(data, Path("unused"), epochs + 1, way))
    clips, splits, state = setup(config, device)
    records = list(fit(config, clips, splits, state))
    rates = [record["clips_per_second"] for record in records[1:]]
    evaluated = 2 * len(accuracies.probe(splits.fit("train+val")))  # A and B
    seconds = statistics.median([record["evaluation_seconds"] for record in records[1:]])
    return rates, seconds / evaluated * statistics.median(rates)


def command(data: Path, out: Path, ranks: int, epochs: int, more: list[str]) -> tuple[float, int]:
    """Run the command as a user does, on `ranks` ranks, with `more` settings.

    Returns clips per second after the first epoch, and the largest number of bytes of the data file that all its
    processes hold together (PSS).
    """
    line = [sys.executable, "-m", "pipeline.train", "default", "--data", str(data), "--out", str(out)]
    line += ["--nproc", str(ranks), "--wandb", "off", "--norm.persons", "masked"]
    line += ["--train.epochs", str(epochs + 1), "--train.eval-every", str(epochs + 1)]
    line += ["--input.fit", "train+val", "--train.no-self-test", *more]
    child = subprocess.Popen(line, cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mapped, measured = 0, out / "ledger.jsonl"
    while child.poll() is None:
        # Looking at a process's memory holds it up, so only before the epochs that count.
        if not measured.exists():
            mapped = max(mapped, memory_of(child.pid, data))
        time.sleep(0.1)  # the data is mapped for about a second before the first epoch ends
    if child.returncode:
        raise SystemExit(f"{' '.join(line)} failed")
    ledger = [json.loads(text) for text in measured.read_text().splitlines()]
    return statistics.median([line["clips_per_second"] for line in ledger if line.get("epoch", 0) > 1]), mapped


def ways(work: Path, data: Path, options: argparse.Namespace) -> None:
    """Print the ways' speeds side by side, and what the four accuracies cost."""
    dense = work / "dense.h5"
    export([str(data), "--format", "dense", "--out", str(dense), "--frames", str(FRAMES)])
    clips, splits, _ = setup(from_dict(settings(data, work / "x", 1, MASKED)), CPU)
    train_N = splits.fit("train+val")
    bodies = (clips.start_NM[train_N] >= 0).sum().item() / len(train_N)
    print(f"{len(train_N)} training clips, {bodies:.2f} bodies per clip; load {os.getloadavg()[0]:.1f}")
    rates: dict[str, list[float]] = {way: [] for way in ("plain", *WAYS)}
    share: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        rates["plain"] += plain_epochs(dense, train_N, clips.classes, options.epochs)
        for way, what in WAYS.items():
            measured, cost = our_epochs(data, what, options.epochs)
            rates[way] += measured
            share[way].append(cost)
    middle = {way: statistics.median(values) for way, values in rates.items()}
    for way, value in middle.items():
        print(f"{way:30} {value:8.0f} clips/s {value / middle['plain']:6.2f} times the plain way")
    # A and B on 2,000 clips, C and D on a tenth of the training clips, as on NTU RGB+D 60.
    for way, costs in share.items():
        cost = statistics.median(costs)
        whole = cost * (2 * accuracies.TRAIN_PROBE + 2 * NTU60 / 10) / NTU60
        print(
            f"{way:30} a clip evaluated costs {cost:.2f} of one trained on: A to D on NTU60 {100 * whole:.0f} % of an "
            "epoch"
        )


def ranks(work: Path, data: Path, options: argparse.Namespace) -> None:
    """Print what two ranks make of one process with as many threads, and how much of the data all of them hold."""
    for precision, numbers in PRECISIONS.items():
        for number, (exchange, more) in enumerate(EXCHANGES.items()):
            runs: dict[int, list[tuple[float, int]]] = {1: [], 2: []}
            for i in range(options.rounds):
                for count, measured in runs.items():
                    out = work / f"{precision}-{number}-{count}-{i}"
                    measured.append(command(data, out, count, options.epochs, numbers + more))
            one, two = (statistics.median(rate for rate, _ in runs[count]) for count in (1, 2))
            print(
                f"{precision}, {exchange}: one process {one:.0f} clips/s, two ranks {two:.0f}: {two / one:.2f}",
                flush=True,
            )
    one, two = (max(held for _, held in runs[count]) for count in (1, 2))
    size = data.stat().st_size
    print(f"of the data file's {size / 1e6:.0f} MB one process holds {one / 1e6:.0f}, two {two / 1e6:.0f}")


def group(operator: str) -> str:
    """Return the group of a profiler's operator."""
    return next((name for name, words in GROUPS.items() if any(word in operator.lower() for word in words)), "others")


def shares(work: Path, data: Path, options: argparse.Namespace) -> None:
    """Print what one epoch of each way spends its time on, evaluation included, on one thread."""
    torch.set_num_threads(1)
    for way, what in WAYS.items():
        config = from_dict(settings(data, work / "x", 2, what))
        clips, splits, state = setup(config, CPU)
        records = fit(config, clips, splits, state)
        next(records)
        began = time.perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            next(records)
        wall = time.perf_counter() - began
        seconds: dict[str, float] = {}
        for event in profile.key_averages():
            name = group(event.key)
            seconds[name] = seconds.get(name, 0.0) + event.self_cpu_time_total / 1e6
        seconds["Python and the rest"] = wall - sum(seconds.values())
        listed = sorted(seconds.items(), key=lambda pair: -pair[1])
        print(f"{way}: {wall:.2f} s; " + ", ".join(f"{name} {100 * value / wall:.0f} %" for name, value in listed))


PARTS = {"ways": ways, "ranks": ranks, "shares": shares}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="recordings, about half of them trained on")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, interleaved")
    parser.add_argument("--epochs", type=int, default=2, help="measured in each round, after one to warm up")
    parser.add_argument("--part", choices=PARTS, help="one of them; else all")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        base, kind = recordings(work)
        print(f"{kind}; {'bf16 in hardware' if NATIVE else 'no instructions for bf16: fp32 alone'}")
        link(base, work / "clips", options.clips)
        data = work / "clips.h5"
        if build([str(work / "clips"), "--out", str(data), "--allow-rejects"]):
            raise SystemExit("the build failed")
        for part in [options.part] if options.part else PARTS:
            PARTS[part](work, data, options)


if __name__ == "__main__":
    main()

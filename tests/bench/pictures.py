"""Measure the cost of a diagnosis on pictures: seconds and peak memory.

    .venv-zoo/bin/python tests/bench/pictures.py
    .venv-zoo/bin/python tests/bench/pictures.py --case resnet18
    python tests/bench/pictures.py --case imagenet --batches 40

resnet18: torchvision's network on 2,000 training and 2,000 evaluation pictures of 3x64x64 in batches of 64, a short
training first. imagenet: samples of 3x224x224 in batches of 256 that the loader makes one by one, on a small
network, because it is about memory. Each case runs in a process of its own; its peak memory includes Python, torch and
one batch of the loader. `make test-zoo` makes an environment that has torchvision.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

from pipeline.normdoctor import diagnose  # noqa: E402

CLASSES = 10
STEPS = 40


class Made:
    """A loader that makes pictures of its classes' colours as they are asked for, the same in every pass."""

    def __init__(self, samples: int, size: int, batch: int, seed: int) -> None:
        self.samples, self.size, self.batch, self.seed = samples, size, batch, seed

    def __len__(self) -> int:
        return -(-self.samples // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draw = torch.Generator().manual_seed(self.seed)
        for first in range(0, self.samples, self.batch):
            count = min(self.batch, self.samples - first)
            label_N = torch.randint(CLASSES, (count,), generator=draw)
            x_NCHW = torch.randn((count, 3, self.size, self.size), generator=draw)
            x_NCHW += (label_N[:, None] * torch.tensor([0.1, -0.2, 0.3]))[:, :, None, None]
            yield x_NCHW, label_N


def resnet18() -> nn.Module:
    """Return torchvision's network."""
    from torchvision.models import resnet18 as network

    return network(num_classes=CLASSES)


def small() -> nn.Module:
    """Return two convolutions of large strides."""
    first = (nn.Conv2d(3, 16, 7, stride=8), nn.BatchNorm2d(16), nn.ReLU())
    second = (nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def trained(model: nn.Module, batches: Made) -> nn.Module:
    """Train for STEPS steps."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _, (x, y) in zip(range(STEPS), batches, strict=False):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def measured(case: str, batches: int) -> dict[str, Any]:
    """Diagnose in this process and return figures, with the peak memory of all that it did."""
    torch.manual_seed(0)
    if case == "resnet18":
        train, held_out = Made(2000, 64, 64, 0), Made(2000, 64, 64, 1)
        model = trained(resnet18(), train)
    else:
        train, held_out = Made(256 * batches, 224, 256, 0), Made(256 * batches, 224, 256, 1)
        model = trained(small(), Made(512, 64, 64, 2))
    begin = time.perf_counter()
    found = diagnose(model, train, held_out)
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "samples": found.samples,
        "named": found.named,
        "accuracies": found.accuracies,
    }


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=("resnet18", "imagenet"), nargs="+", default=["resnet18", "imagenet"])
    parser.add_argument("--batches", type=int, default=20, help="batches of each loader of the case imagenet")
    parser.add_argument("--here", action="store_true", help="measure in this process and print JSON")
    options = parser.parse_args()
    if "resnet18" in options.case and importlib.util.find_spec("torchvision") is None:
        parser.error("torchvision is not installed: run `make test-zoo`, or choose --case imagenet.")
    if options.here:
        print(json.dumps(measured(options.case[0], options.batches)))
        return
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    for case in options.case:
        command = [sys.executable, __file__, "--here", "--case", case, "--batches", str(options.batches)]
        begin = time.perf_counter()
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result, whole = json.loads(output.splitlines()[-1]), time.perf_counter() - begin
        accuracies = ", ".join(f"{name} {100 * value:.1f}" for name, value in result["accuracies"].items())
        print(
            f"{case}: {result['samples']['train']} + {result['samples']['eval']} samples measured on: diagnosis "
            f"{result['seconds']:.1f} s, with start-up and training {whole:.1f} s, at most "
            f"{result['memory'] / 1e6:.0f} MB ({accuracies}; named: {', '.join(result['named']) or 'nothing'})",
            flush=True,
        )


if __name__ == "__main__":
    main()

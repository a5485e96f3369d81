"""Time the masked batch norm beside torch's plain one, as a ratio (tests/bench/results/recalibrate.md).

    python tests/bench/masked.py --repeats 15

Forward and backward in training mode, one thread, interleaved: the plain layer, the converted layer without a mask, and
with a mask of half of the places. Printed: the ratio of the times to the plain layer's, median and range.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from pipeline.normdoctor import convert, counting  # noqa: E402

# Name -> layer, shape of its input.
SHAPES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "BatchNorm1d": (nn.BatchNorm1d(128), (64, 128, 256)),
    "BatchNorm2d": (nn.BatchNorm2d(64), (32, 64, 64, 25)),
    "BatchNorm3d": (nn.BatchNorm3d(16), (8, 16, 16, 32, 32)),
}


def seconds(layer: nn.Module, x: Tensor, mask: Tensor | None) -> float:
    """Return the time of one forward and backward pass: processor time on a CPU, which other work does not change."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    begin = clock()
    with counting(layer, mask):
        layer(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - begin


def ratios(name: str, repeats: int, device: str) -> dict[str, list[float]]:
    """Return the times of the converted layer, without and with a mask, over those of the plain one."""
    plain, shape = SHAPES[name]
    plain = plain.to(device)
    masked = convert(nn.Sequential(type(plain)(plain.num_features))).to(device)  # type: ignore[operator]
    x = torch.randn(shape, device=device, requires_grad=True)
    mask = torch.rand(shape[0], *shape[2:], device=device) > 0.5
    found: dict[str, list[float]] = {"no mask": [], "mask": []}
    for repeat in range(repeats + 2):
        times = [seconds(plain, x, None), seconds(masked, x, None), seconds(masked, x, mask)]
        if repeat >= 2:
            found["no mask"].append(times[1] / times[0])
            found["mask"].append(times[2] / times[0])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        print(
            f"\n{device}, torch {torch.__version__}, n = {options.repeats}\n\n| layer | no mask | mask |\n|---|---|---|"
        )
        for name in SHAPES:
            found = ratios(name, options.repeats, device)
            cells = [f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in found.values()]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

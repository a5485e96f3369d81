"""Measure the monitor: the step at which planted faults are announced, false announcements, and its cost.

    python tests/bench/monitor.py
    python tests/bench/monitor.py --seeds 1 --networks slow "momentum of Keras"

Trains small networks on scikit-learn's digits, watched by `normdoctor.Monitor` at its defaults: eight planted faults,
and eight healthy trainings. A fault is announced right where its name, or another name of the same thing, stands first.
One JSON line per training in OUT/monitor.jsonl; the same command resumes, so change OUT when the monitor has changed.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME), str(HOME / "tests" / "bench")]

import resumed  # noqa: E402 - the path is set above
from averages import NETWORKS  # noqa: E402

from pipeline.normdoctor import Monitor  # noqa: E402

STEPS, HEALTHY_STEPS, BATCH, RATE = 800, 1500, 64, 0.05
# Noise on the digits, and spread of their logarithmic contrast: without them, networks that small are right whatever
# their statistics.
NOISE, CONTRAST = 0.7, 0.7
# Step after which the gap is measured from outside, and samples for that.
GAP_AT, GAP_SAMPLES = 199, 1024
# An average over the steps from here on.
AVERAGE_FROM = 50
DECAY = 0.98


@dataclass(frozen=True)
class Training:
    """A training, and the names under which its fault may be announced; none where it is healthy."""

    network: Callable[[], nn.Module]
    names: tuple[str, ...] = ()
    momentum: float | None = None
    """Of the running statistics, where it is not torch's default."""
    averaged: str = ""
    """Kind of average over the weights, if there is one; it is watched."""
    batch: int = BATCH
    rate: float = RATE
    optimizer: str = "sgd"
    one_contrast: bool = False
    """One contrast per batch, as where each batch is one recording."""
    second_pass: bool = False
    """Another forward pass per step, on inputs of another distribution, as in domain adaptation."""


class Twice(nn.Module):
    """One trunk on a picture and on another one, which is empty for the most part if `empty`."""

    def __init__(self, empty: bool) -> None:
        super().__init__()
        self.empty, self.trunk = empty, NETWORKS["plain"]()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        other = torch.zeros_like(x) if self.empty else x.flip(3)
        return torch.maximum(self.trunk(x), self.trunk(other))


def with_norm(norm: Callable[[int], nn.Module]) -> Callable[[], nn.Module]:
    """Return a network with another norm."""

    def build() -> nn.Module:
        parts: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 32), (32, 32)):
            parts += [nn.Conv2d(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU()]
        return nn.Sequential(*parts, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(128, 10))

    return build


def tracked(channels: int) -> nn.Module:
    """Instance norm with running statistics."""
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


PLAIN, SEPARABLE = NETWORKS["plain"], NETWORKS["separable"]
FAULTS: dict[str, Training] = {
    "SWA, momentum 0": Training(PLAIN, ("buffers", "averaging"), momentum=0.0, averaged="equally"),
    "momentum of Keras": Training(PLAIN, ("stale", "correlated"), momentum=0.99, one_contrast=True),
    "slow": Training(PLAIN, ("stale", "buffers"), momentum=0.001),
    "reuse": Training(lambda: Twice(empty=True), ("reuse",)),
    "second forward pass": Training(PLAIN, ("foreign", "stale"), second_pass=True),
    "EMA, buffers of the last": Training(SEPARABLE, ("averaging",), averaged="exponentially", rate=0.2, batch=32),
    "EMA of parameters alone": Training(PLAIN, ("buffers",), averaged="by hand"),
    "tracked instance norm": Training(with_norm(tracked), ("instance",)),
}
HEALTHY: dict[str, Training] = {
    "plain": Training(PLAIN),
    "residual": Training(NETWORKS["residual"]),
    "preactivated, Adam": Training(NETWORKS["preactivated"], rate=1e-3, optimizer="adam"),
    "dense": Training(NETWORKS["dense"]),
    "momentum 0.01": Training(PLAIN, momentum=0.01),
    "batches of 8": Training(SEPARABLE, batch=8, rate=0.02),
    "harmless reuse": Training(lambda: Twice(empty=False)),
    "group norm": Training(with_norm(lambda channels: nn.GroupNorm(8, channels))),
}


def batches(training: Training, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the first 1,437 digits (N, 1, 8, 8) without end."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x_N1HW, y_N = torch.from_numpy(x).float().reshape(-1, 1, 8, 8)[:1437] / 8 - 1, torch.from_numpy(y).long()[:1437]
    draw = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(y_N), generator=draw)
        for chosen in order[: len(order) // training.batch * training.batch].split(training.batch):
            x_B1HW = x_N1HW[chosen]
            pictures = 1 if training.one_contrast else len(x_B1HW)
            contrast_B = torch.exp(CONTRAST * torch.randn(pictures, 1, 1, 1, generator=draw))
            noise_B1HW = NOISE * torch.randn(x_B1HW.shape, generator=draw)
            yield contrast_B * (x_B1HW + noise_B1HW), y_N[chosen]


def average_of(model: nn.Module, how: str) -> nn.Module | None:
    """Return the model that averages the weights of another, or None."""
    if how == "by hand":
        return copy.deepcopy(model).eval()
    if how == "equally":
        return AveragedModel(model)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY)) if how else None


def _follow(average: nn.Module, model: nn.Module) -> None:
    if isinstance(average, AveragedModel):
        average.update_parameters(model)
        return
    with torch.no_grad():
        for own, new in zip(average.parameters(), model.parameters(), strict=True):
            own.lerp_(new, 1 - DECAY)


def train(training: Training, seed: int, steps: int) -> dict[str, Any]:
    """Train, watched, and return what was announced and how long it took."""
    torch.manual_seed(seed)
    model = training.network()
    for module in model.modules():
        if training.momentum is not None and isinstance(module, _BatchNorm):
            module.momentum = training.momentum
    average = average_of(model, training.averaged)
    if training.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), training.rate)
    else:
        optimizer = torch.optim.SGD(model.parameters(), training.rate, momentum=0.9)
    monitor = Monitor(model if average is None else average)
    source = batches(training, seed)
    gap = 0.0
    begin = time.perf_counter()
    for step in range(steps):
        x, y = next(source)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        if training.second_pass:
            loss = loss + functional.cross_entropy(model(3 * x + 2), y)
        loss.backward()
        optimizer.step()
        if average is not None and step >= AVERAGE_FROM:
            _follow(average, model)
        monitor.step((x, y))
        if step == GAP_AT:
            pause = time.perf_counter()
            gap = outside_gap(model if average is None else average, training, seed)
            begin += time.perf_counter() - pause
    seconds = time.perf_counter() - begin
    return {"gap": gap, "seconds": seconds} | _said(monitor)


def outside_gap(model: nn.Module, training: Training, seed: int) -> float:
    """Return B - A over fresh batches, by a plain pass in training and in eval mode."""
    found = {True: 0.0, False: 0.0}
    source = batches(training, seed + 1000)
    some = [next(source) for _ in range(GAP_SAMPLES // training.batch)]
    for mode in found:
        twin = copy.deepcopy(model).train(mode)
        with torch.no_grad():
            found[mode] = statistics.mean((twin(x).argmax(1) == y).double().mean().item() for x, y in some)
    return found[True] - found[False]


def _said(monitor: Monitor) -> dict[str, Any]:
    said = monitor.announcement
    return {
        "own": monitor.seconds,
        "measurements": [[m.step, round(m.seconds, 4), m.gap["normalization"]] for m in monitor.measurements],
        "off": monitor.off,
        "step": said and said.step,
        "diagnosis_seconds": said and said.seconds,
        "named": said.diagnosis.named if said else [],
        "verdict": str(said)[:400] if said else "",
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as two Markdown tables."""
    rows = ["| fault | gap at step 200, points | announced at step | named first | diagnosis, s |", "|" + "---|" * 5]
    for name in FAULTS:
        mine = [line for line in lines if line["training"] == name]
        at = ", ".join(str(line["step"] or "never") for line in mine)
        first = ", ".join(dict.fromkeys((line["named"] or ["-"])[0] for line in mine))
        took = [line["diagnosis_seconds"] for line in mine if line["step"]]
        gaps = ", ".join(f"{100 * line['gap']:.0f}" for line in mine)
        rows.append(f"| {name} | {gaps} | {at} | {first} | {statistics.mean(took) if took else 0:.1f} |")
    rows += ["", "| healthy training | gap at step 200, points | announced | measurements | share of the time, % |"]
    rows.append("|" + "---|" * 5)
    for name in HEALTHY:
        mine = [line for line in lines if line["training"] == name]
        said = sum(line["step"] is not None for line in mine)
        shares = ", ".join(f"{100 * line['own'] / (line['seconds'] - line['own']):.1f}" for line in mine)
        made = ", ".join(str(len(line["measurements"])) for line in mine)
        gaps = ", ".join(f"{100 * line['gap']:.0f}" for line in mine)
        rows.append(f"| {name} | {gaps} | {said} of {len(mine)} | {made} | {shares} |")
    return "\n".join(rows)


def main() -> None:
    """See the top of the file."""
    parser = resumed.parser(__doc__ or "", "bench-monitor", [*FAULTS, *HEALTHY])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    def measured(missing: set[Any]) -> Iterator[dict[str, Any]]:
        for name, seed in sorted(missing, key=lambda key: (options.networks.index(key[0]), key[1])):
            steps = STEPS if name in FAULTS else HEALTHY_STEPS
            yield {"training": name, "seed": seed} | train((FAULTS | HEALTHY)[name], seed, steps)

    lines = resumed.lines_of(
        options,
        "monitor.jsonl",
        {(name, seed) for name in options.networks for seed in range(options.seeds)},
        lambda line: (line["training"], line["seed"]),
        measured,
        lambda line: f"{line['training']} {line['seed']} {line['step']} {line['named']} {line['seconds']:.1f} s",
    )
    print(table(lines))


if __name__ == "__main__":
    main()

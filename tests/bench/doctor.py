"""Measure how often the norm doctor is right, on planted causes of several strengths and on healthy networks.

    make bench-doctor
    python tests/bench/doctor.py --quick
    python tests/bench/doctor.py --out bench/doctor --cases 50
    python tests/bench/doctor.py --calibrate
    python tests/bench/doctor.py --runs runs/loop-0 runs/loop-1

Each case is one JSON line in OUT/cases.jsonl; the same command again goes on where it was stopped, so change OUT when
the doctor or a plant has changed. Networks are trained once (OUT/networks) and most causes planted in copies of them;
a case takes 1.5 CPU-seconds, the whole of it half an hour. Data: the demo's synthetic clips, Northwestern-UCLA and
UTD-MHAD where they are (SKELNORM_REAL_DATA; else it prints a note and continues), scikit-learn's digits. Of the six
architectures the first two (cnn, hcn) are ours, the others plain torch. Recall counts the top-ranked cause; a plant
that costs less than two points is counted apart where the doctor blames by effect. Where fvcore is installed its
recalibration is compared too, and torch's always. --calibrate prints what the checks' quantities are on healthy
networks of data sets and seeds that are never reported: SBU (two real bodies per clip), other synthetic clips,
scikit-learn's breast cancer table. --runs compares on run folders.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

from pipeline.data.clips import Batch, Clips  # noqa: E402
from pipeline.data.splits import splits_of  # noqa: E402
from pipeline.doctor import Diagnosis, History, diagnose  # noqa: E402
from pipeline.doctor.patient import ClipBatches, diagnose_run  # noqa: E402
from pipeline.evaluation import accuracies  # noqa: E402
from pipeline.models import ModelConfig, build_model  # noqa: E402
from pipeline.models.bodies import present_rows  # noqa: E402
from pipeline.normdoctor import layer_checks  # noqa: E402
from pipeline.normdoctor.evidence import Evidence  # noqa: E402
from pipeline.normdoctor.intervals import paired  # noqa: E402
from pipeline.normdoctor.layers import EPS_SHARE  # noqa: E402
from pipeline.normdoctor.measure import gather  # noqa: E402
from pipeline.normdoctor.moments import RATIO_LIMIT, SHIFT_LIMIT, mean_shift, variance_ratio  # noqa: E402
from pipeline.normdoctor.score_checks import between_batches  # noqa: E402
from pipeline.normdoctor.sites import batch_norms  # noqa: E402
from pipeline.norms import BatchNorm, NormConfig  # noqa: E402
from pipeline.run_folder import Run  # noqa: E402
from preprocessing.hdf5 import open_file  # noqa: E402

FRAMES, BATCH, MOST = 16, 32, 512
SEEDS, CALIBRATION_SEEDS = (0, 1, 2), (100, 101, 102, 103, 104)
Batches = list[tuple[Any, Tensor]]  # what the network takes, and labels


@dataclass(frozen=True)
class Data:
    """Training and evaluation samples."""

    name: str
    x: Tensor
    y: Tensor
    x_eval: Tensor
    y_eval: Tensor
    order: int = 0
    """Seed of the training loader's shuffle."""

    @property
    def skeletons(self) -> bool:
        """Return whether x is x_NCTVM."""
        return self.x.dim() == 5

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1

    def train(self, size: int = BATCH, order: Tensor | None = None, seed: int | None = None) -> Batches:
        """Training batches, shuffled or in an order."""
        if order is None:
            draw = torch.Generator().manual_seed(self.order if seed is None else seed)
            order = torch.randperm(len(self.x), generator=draw)
        # No batch of one: that would be another cause.
        return [(self.x[i], self.y[i]) for i in order.tensor_split(max(1, len(order) // size))]

    def held_out(self) -> Batches:
        """Evaluation batches, shuffled."""
        order = torch.randperm(len(self.x_eval), generator=torch.Generator().manual_seed(0))
        return [(self.x_eval[i], self.y_eval[i]) for i in order.split(BATCH)]


# --- data -------------------------------------------------------------------------------------------------------------


def digits() -> Data:
    """scikit-learn's 1,797 digits, (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = torch.from_numpy(x).float().reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.from_numpy(y).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    a, b = order[:1000], order[1000:]
    return Data("digits", x[a], y[a], x[b], y[b])


def clips(name: str, source: Path, out: Path) -> Data:
    """Clips of a data file that is made from `source` once, resampled to FRAMES."""
    path = out / f"{name}.h5"
    if not path.exists():
        build = [sys.executable, "-m", "preprocessing.build", str(source), "--out", str(path)]
        subprocess.run(build, check=True, cwd=HOME, capture_output=True)
    file = open_file(path)
    loaded, splits = Clips(file, torch.device("cpu")), splits_of(file)
    draw = torch.Generator().manual_seed(0)

    def some(index_N: Tensor) -> tuple[Tensor, Tensor]:
        batch = loaded.batch(index_N[torch.randperm(len(index_N), generator=draw)][:MOST], FRAMES)
        return batch.x_NCTVM, batch.label_N

    return Data(name, *some(splits.fit("train+val")), *some(splits.test))


def table_of_cells() -> Data:
    """scikit-learn's 569 breast cancer samples of 30 numbers, standardised."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = torch.from_numpy(x).float()
    x, y = (x - x.mean(0)) / x.std(0), torch.from_numpy(y).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    a, b = order[:400], order[400:]
    return Data("cells", x[a], y[a], x[b], y[b])


def synthetic(out: Path, name: str, seed: int) -> Data:
    """The demo's clips, or others like them."""
    raw = out / f"{name}-raw"
    if not raw.exists():
        made = [sys.executable, "-m", "preprocessing.synthetic", str(raw), "--clips", "720", "--seed", str(seed)]
        subprocess.run(made, check=True, cwd=HOME, capture_output=True)
    return clips(name, raw, out)


def data_sets(out: Path, calibration: bool = False) -> Iterator[Data]:
    """All available data sets that are reported, or that thresholds are set on."""
    yield synthetic(out, "other", 100) if calibration else synthetic(out, "demo", 0)
    real = Path(os.environ.get("SKELNORM_REAL_DATA", HOME.parent / "shared" / "data")) / "benchmarks"
    for name in ("sbu",) if calibration else ("nw_ucla", "utd_mhad"):
        if (real / f"{name}.npz").exists():
            yield clips(name, real / f"{name}.npz", out)
        else:
            print(f"{name}: skipped, {real} is not there")
    try:
        yield table_of_cells() if calibration else digits()
    except ImportError:
        print("digits, cells: skipped, scikit-learn is not installed (pip install scikit-learn)")


# --- architectures ----------------------------------------------------------------------------------------------------


class OnClips(nn.Module):
    """A network of ours, half as wide, as a module of x_NCTVM alone."""

    def __init__(self, data: Data, name: str, persons: str, kind: str, momentum: float) -> None:
        super().__init__()
        norm = NormConfig(kind=kind, persons=persons, momentum=momentum, mask_max=persons == "fold")
        # The published dropout of hcn stands in front of norms, which the doctor names: a healthy network has none.
        model = ModelConfig(name=name, dropout=0.2 if name == "cnn" else 0.0, width=0.5)
        self.network = build_model(model, norm, FRAMES, data.x.shape[3], data.classes)
        self.fill = 0.0  # metres: where absent joints are put

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        there = present(x)
        return self.network(x.masked_fill(~there.transpose(1, 2)[:, None, :, None], self.fill), there)


def present(x: Tensor) -> Tensor:
    """present_NMT of x_NCTVM."""
    return (x != 0).any(3).any(1).transpose(1, 2)


class Temporal(nn.Module):
    """Plain torch: all coordinates of both bodies as channels of two temporal convolutions."""

    def __init__(self, data: Data, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        channels = data.x.shape[1] * data.x.shape[3] * data.x.shape[4]
        self.first, self.norm1 = nn.Conv1d(channels, 64, 5, padding=2), norm(64)
        self.second, self.norm2 = nn.Conv1d(64, 64, 5, padding=2), norm(64)
        self.out = nn.Linear(64, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = x.permute(0, 1, 3, 4, 2).flatten(1, 3)
        h = torch.relu(self.norm1(self.first(h)))
        return self.out(torch.relu(self.norm2(self.second(h))).amax(2))


class Residual(nn.Module):
    """Plain torch, images: a convolution, two residual blocks."""

    def __init__(self, data: Data, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, 16, 3, padding=1), norm(16)
        self.a, self.norm1 = nn.Conv2d(16, 16, 3, padding=1), norm(16)
        self.b, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), norm(16)
        self.out = nn.Linear(16 * 16, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = torch.relu(self.norm0(self.stem(x)))
        h = h + torch.relu(self.norm1(self.a(h)))
        h = h + torch.relu(self.norm2(self.b(h)))
        return self.out(torch.max_pool2d(h, 2).flatten(1))


class TwoViews(nn.Module):
    """Plain torch, images: one trunk called on the image and on a faint negative of its lower half."""

    def __init__(self, data: Data, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1), norm(16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), norm(16)
        self.out = nn.Linear(16 * 16, data.classes)
        self.strength = 1.0

    def view(self, x: Tensor) -> Tensor:
        """One view's features."""
        h = torch.relu(self.norm(self.conv(x)))
        return torch.max_pool2d(torch.relu(self.norm2(self.conv2(h))), 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        faint = 0.05 * -x.flip(2) + 3.0
        second = x + self.strength * (faint - x)
        return self.out(torch.maximum(self.view(x), self.view(second)))


class Dense(nn.Module):
    """Plain torch, any samples: two linear layers."""

    def __init__(self, data: Data, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Linear(data.x[0].numel(), 128), norm(128)
        self.second, self.norm2 = nn.Linear(128, 64), norm(64)
        self.out = nn.Linear(64, data.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = torch.relu(self.norm1(self.first(x.flatten(1))))
        return self.out(torch.relu(self.norm2(self.second(h))))


def network(data: Data, arch: str, seed: int) -> nn.Module:
    """A fresh network. Its name: cnn-PERSONS-KIND or hcn-PERSONS-KIND of ours, or tcn-KIND, resnet-KIND, views-KIND."""
    torch.manual_seed(seed)
    family, *words = arch.split("-")
    if family in OURS:
        return OnClips(data, family, words[0], words[1], 0.1)
    norms: dict[str, Callable[[int], nn.Module]] = {
        "bn": nn.BatchNorm1d if family in ("tcn", "dense") else nn.BatchNorm2d,
        "gn": lambda c: nn.GroupNorm(4, c),
        "none": lambda c: nn.Identity(),
    }
    return {"tcn": Temporal, "resnet": Residual, "views": TwoViews, "dense": Dense}[family](data, norms[words[0]])


OURS = ("cnn", "hcn")
SECOND = "hcn-masked-bn"
"""Of ours too: every kind that any network can have is planted in it once, at full strength."""
ARCHITECTURES = {True: ("cnn-masked-bn", "cnn-fold-bn", "tcn-bn"), False: ("resnet-bn", "dense-bn")}
HEALTHY = {
    True: ("cnn-masked-bn", "cnn-fold-bn", "cnn-masked-gn", "cnn-masked-none", "tcn-bn", "tcn-gn", "tcn-none"),
    False: ("resnet-bn", "resnet-gn", "resnet-none", "dense-bn", "dense-none"),
}
ON_TABLES = ("dense-bn", "dense-none")
EPOCHS = {"cnn": 6, "hcn": 15, "tcn": 15, "resnet": 6, "views": 6, "dense": 6}
LEAST_STEPS = 150  # at momentum 0.1, so that nothing is left of the initial statistics


def trained(
    data: Data, arch: str, seed: int, out: Path, size: int = BATCH, sort: bool = False, strength: float = 1.0
) -> nn.Module:
    """The network after a short training, made once; in eval mode. `sort`: each batch of one class's neighbours."""
    path = out / "networks" / f"{data.name}-{arch}-{seed}-{size}{'-sorted' if sort else ''}-{strength}.pt"
    model = network(data, arch, seed)
    if isinstance(model, TwoViews):
        model.strength = strength
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3 if size >= BATCH else 3e-4)
    epochs = max(EPOCHS[arch.split("-")[0]], -(-LEAST_STEPS * size // len(data.x)))
    # The rate falls to nothing: with fast last steps a healthy network's statistics would lag behind, which is a cause.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for epoch in range(epochs):
        order = data.y.argsort(stable=True) if sort else None
        batches = data.train(size, order, seed=seed * 1000 + epoch)
        for i in torch.randperm(len(batches), generator=torch.Generator().manual_seed(epoch)).tolist():
            x, y = batches[i]
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model.eval()


# --- causes -----------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """The arguments of the doctor."""

    model: nn.Module
    train: Batches
    held_out: Batches
    expected: tuple[str, ...]
    """Names any of which is right."""
    known: dict[str, Any] = field(default_factory=dict)


def refresh(model: nn.Module, batches: Batches, momentum: float | None = None) -> None:
    """Update running statistics over batches in training mode (momentum None: their average)."""
    for layer in batch_norms(model).values():
        layer.reset_running_stats()
        layer.momentum = momentum if momentum is not None else 1.0
    model.train()
    with torch.no_grad():
        for number, (x, _) in enumerate(batches):
            for layer in batch_norms(model).values():
                layer.momentum = momentum if momentum is not None else 1 / (number + 1)
            model(x)
    for layer in batch_norms(model).values():
        layer.momentum = 0.1
    model.eval()


def layers(model: nn.Module, share: float = 1.0) -> list[Any]:
    """The first share of the batch norms, at least one."""
    every = list(batch_norms(model).values())
    return every[: max(1, round(share * len(every)))]


class Stuck(nn.Module):
    """A network whose train() does nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.train()
        nn.Module.train(self, True)

    def train(self, mode: bool = True) -> Stuck:
        """Stays as it is."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.inner(x)


Plant = Callable[[Data, nn.Module, float, int], Case]


def plain(data: Data, model: nn.Module, *expected: str, **known: Any) -> Case:
    """The usual loaders."""
    return Case(model, data.train(), data.held_out(), expected, known)


def train_mode(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Never put into eval mode, or only some of its norms."""
    for layer in layers(model, strength):
        layer.train()
    return plain(data, model.train() if strength == 1 else model, "mode")


def stuck(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """eval() has no effect."""
    return plain(data, Stuck(model), "mode")


def reset(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Buffers lost on the way (strict=False)."""
    for layer in layers(model, strength):
        layer.reset_running_stats()
    return plain(data, model, "buffers")


def momentum_zero(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Momentum 0: initial values for ever, updates counted."""
    for layer in layers(model, strength):
        layer.running_mean.zero_()
        layer.running_var.fill_(1)
        layer.momentum = 0.0
    return plain(data, model, "buffers")


def poisoned(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """One batch that overflowed left NaN in some channels."""
    layer = layers(model, 0)[0]
    layer.running_mean[: max(1, int(strength * len(layer.running_mean) / 2))] = float("nan")
    return plain(data, model, "buffers")


def wide(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Variances of an earlier, wilder network."""
    for layer in layers(model):
        layer.running_var *= 1 + 99 * strength**2
    return plain(data, model, "foreign", "stale")


def moved(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Means of another network."""
    for layer in layers(model):
        sign = torch.randn(layer.running_mean.shape, generator=torch.Generator().manual_seed(seed)).sign()
        layer.running_mean += 3 * strength * layer.running_var.sqrt() * sign
    return plain(data, model, "foreign", "stale")


def slow(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """A few updates at a small momentum after a reset."""
    refresh(model, data.train(), {1.0: 0.001, 0.5: 0.01}.get(strength, 0.05))
    return plain(data, model, "stale")


def foreign(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Statistics of another data set, frozen."""
    refresh(model, [(x * (1 + 3 * strength) + strength, y) for x, y in data.train()])
    return plain(data, model, "foreign", "stale")


def averaged(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Averaged weights with the buffers of the trained network."""
    source = {name: x.clone() for name, x in model.state_dict().items()}
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1 and "out" not in name and "classify" not in name:
                # Averages of weights on a path are shorter than its ends.
                p.mul_(1 - 0.8 * strength)
            elif p.dim() == 1:
                p.add_(1e-3 * torch.randn(p.shape, generator=draw))
    return plain(data, model, "averaging", history=History(source=source))


def half(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """The whole network in half precision, buffers too; at full strength the variance overflows."""
    dtype = torch.bfloat16 if strength < 0.5 else torch.float16
    if strength == 1:
        for layer in layers(model):
            layer.running_var *= 1e6
    case = plain(data, model.to(dtype), "precision")
    case.train, case.held_out = ([(x.to(dtype), y) for x, y in part] for part in (case.train, case.held_out))
    return case


def large_eps(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """eps of another framework's configuration, above the variance."""
    for layer in layers(model, strength):
        layer.eps = float(layer.running_var.max()) * 2
    return plain(data, model, "precision")


def per_rank(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Two ranks, each with other samples (by their mean), rank 0's buffers saved."""
    order = data.x.flatten(1).mean(1).argsort(stable=True)
    count = len(order)
    middle = int(count * (1 - strength / 2))
    parts = order[:middle], order[count - middle :]
    states = []
    for part in reversed(parts):
        refresh(model, data.train(order=part[torch.randperm(len(part), generator=torch.Generator().manual_seed(0))]))
        states.append({name: x.clone() for name, x in model.named_buffers()})
    return plain(data, model, "ranks", history=History(ranks=states[::-1]))


def by_class(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """The loader gives class after class, and the running statistics hold the last of them."""
    order = data.y.argsort(stable=True)
    # A seed of its own: the doctor's shuffle of seed 0 is the inverse of this one and would sort the samples again.
    draw = torch.Generator().manual_seed(7_000 + seed)
    swap = torch.randperm(len(order), generator=draw)[: int((1 - strength) * len(order))]
    order = order.clone()
    order[swap] = order[swap.sort().values]
    batches = data.train(order=order)
    refresh(model, batches, 0.3)
    return Case(model, batches, data.held_out(), ("correlated",))


def twice(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Activation checkpointing, or accumulation: several updates a step, the last few batches remembered."""
    times = {1.0: 8, 0.5: 4}.get(strength, 2)
    updates = max(int(layer.num_batches_tracked) for layer in layers(model))
    return plain(data, model, "updates", history=History(steps=updates // times))


def left_over(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """The last batch has one sample, and the statistics follow it."""
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    full = [(data.x[i], data.y[i]) for i in order[:-1].split(BATCH) if len(i) > 1]
    last = (data.x[order[-1:]], data.y[order[-1:]])
    if not isinstance(model, OnClips | Dense):  # those reject one value per channel in training
        refresh(model, full)
        layer_momentum = 0.1 + 0.8 * strength
        for layer in layers(model):
            layer.momentum = layer_momentum
        with torch.no_grad():
            model.train()(last[0])
        model.eval()
    return Case(model, [*full, last], data.held_out(), ("lone",))


def dropped(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Dropout in front of the layers that feed the norms."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            feeds = isinstance(child, nn.Conv1d | nn.Conv2d) or name in ("hidden", "first", "second")
            if feeds and not isinstance(parent, nn.Sequential):
                setattr(parent, name, nn.Sequential(nn.Dropout(0.3 + 0.4 * strength), child))
    _dropout_in_lists(model, 0.3 + 0.4 * strength)
    torch.manual_seed(seed)
    refresh(model, data.train() * 2)
    return plain(data, model, "dropout")


def _dropout_in_lists(model: nn.Module, p: float) -> None:
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for i, child in enumerate(module):
                if isinstance(child, nn.Conv2d):
                    module[i] = nn.Sequential(nn.Dropout(p), child)


def padded(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """A network trained on the bodies that are there, its statistics of all rows, absent joints up to 8 m away."""
    other = OnClips(data, "cnn", "fold", "bn", 0.1)
    other.load_state_dict(model.state_dict())
    other.fill = 8.0 * strength
    refresh(other.eval(), data.train())
    return plain(data, other, "padding")


def displaced(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Evaluation samples from another camera: scaled and moved."""
    case = plain(data, model, "inputs", "shift")
    scale = data.x.std()
    case.held_out = [((x * (1 + strength) + 2 * strength * scale * (x != 0)), y) for x, y in case.held_out]
    return case


def decayed(data: Data, model: nn.Module, strength: float, seed: int) -> Case:
    """Weight decay has taken scales of the last norm to nothing."""
    name, layer = list(batch_norms(model).items())[-1]
    with torch.no_grad():
        layer.weight[: int((0.3 + 0.6 * strength) * len(layer.weight))] *= 1e-5
    return plain(data, model, "decay", history=History(decayed=frozenset([name])))


# Kind -> how it is planted in a trained network. Those below need a training of their own.
PLANTS: dict[str, Plant] = {
    "train_mode": train_mode, "stuck": stuck, "reset": reset, "momentum_zero": momentum_zero, "poisoned": poisoned,
    "wide": wide, "moved": moved, "slow": slow, "foreign": foreign, "averaged": averaged, "half": half,
    "large_eps": large_eps, "per_rank": per_rank, "by_class": by_class, "twice": twice, "left_over": left_over,
    "dropped": dropped, "padded": padded, "displaced": displaced, "decayed": decayed,
}  # fmt: skip
TRAINED = ("loop", "sorted_training", "small_batches")
STRENGTHS = (1.0, 0.5, 0.25)
ONE_STRENGTH = ("stuck",)


@dataclass(frozen=True)
class Plan:
    """Which case."""

    kind: str
    strength: float
    data: str
    arch: str
    seed: int

    @property
    def name(self) -> str:
        """Unique."""
        return f"{self.kind}/{self.strength}/{self.data}/{self.arch}/{self.seed}"


def plans(names: dict[str, Data]) -> list[Plan]:
    """Every case, one architecture each in turn, ordered so that any first part has all kinds and healthy ones."""
    result = []
    for seed in SEEDS:
        for number, strength in enumerate(STRENGTHS):
            for place, (name, data) in enumerate(names.items()):
                for turn, kind in enumerate((*PLANTS, *TRAINED)):
                    archs = () if strength < 1 and kind in ONE_STRENGTH else fitting(kind, data, strength)
                    if archs:
                        arch = archs[(turn + place + number + seed) % len(archs)]
                        result.append(Plan(kind, strength, name, arch, seed))
                    if archs == ARCHITECTURES[True] and (strength, seed) == (STRENGTHS[0], SEEDS[0]):
                        result.append(Plan(kind, strength, name, SECOND, seed))
            for name, data in names.items():
                archs = HEALTHY[data.skeletons] + ((SECOND,) if data.skeletons and not number else ())
                result += [Plan("healthy", 1.0, name, arch, seed + 10 * number) for arch in archs]
    return result


def fitting(kind: str, data: Data, strength: float) -> tuple[str, ...]:
    """Architectures that a cause can be planted in."""
    if kind == "loop":
        arch = "cnn-loop-bn" if data.skeletons else "views-bn"
        return (arch,) if strength == 1 or not data.skeletons else ()
    if kind == "sorted_training":
        return ("tcn-bn" if data.skeletons else "resnet-bn",)
    if kind == "small_batches":
        return ("cnn-masked-bn" if data.skeletons else "dense-bn",)
    if kind == "padded":
        return ("cnn-masked-bn",) if data.skeletons else ()
    if kind == "half" and data.skeletons:
        return ("tcn-bn",)  # on a CPU half-precision convolutions over planes take a minute
    return ARCHITECTURES[data.skeletons]


def case(plan: Plan, data: Data, out: Path) -> Case:
    """The planted network and its loaders."""
    data = dataclasses.replace(data, order=plan.seed)
    if plan.kind == "loop":
        return plain(data, trained(data, plan.arch, plan.seed, out, strength=plan.strength), "reuse")
    if plan.kind == "sorted_training":
        model = trained(data, plan.arch, plan.seed, out, sort=True)
        order = data.y.argsort(stable=True)
        return Case(model, data.train(order=order), data.held_out(), ("leakage", "correlated"))
    if plan.kind == "small_batches":
        size = {1.0: 2, 0.5: 4}.get(plan.strength, 8)
        model = trained(data, plan.arch, plan.seed, out, size=size)
        return Case(model, data.train(size), data.held_out(), ("small",))
    model = copy.deepcopy(trained(data, plan.arch, plan.seed, out))
    if plan.kind == "healthy":
        return plain(data, model)
    return PLANTS[plan.kind](data, model, plan.strength, plan.seed)


def rows(batch: tuple[Tensor, Tensor], x: Tensor, call: int) -> Tensor | None:
    """Rows of our networks' layers that are real bodies."""
    return present_rows(present(batch[0]).any(-1), len(x), call) if x.dim() > 2 else None


def accuracy(model: nn.Module, batches: Batches) -> float:
    """In eval mode."""
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in batches])
    return right.double().mean().item()


class TorchBatchNorm(nn.BatchNorm2d):
    """torch's own, for any number of dimensions."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def torchs_own(model: nn.Module) -> nn.Module:
    """A copy with torch's BatchNorm for ours: fvcore looks for torch's classes by name and passes over all others."""
    copied = copy.deepcopy(model)
    for name, layer in batch_norms(copied).items():
        if type(layer) is BatchNorm:
            new = TorchBatchNorm(len(layer.weight), layer.eps, layer.momentum)
            new.load_state_dict(layer.state_dict())
            copied.set_submodule(name, new.to(layer.weight.dtype).train(layer.training))
    return copied


def by_others(model: nn.Module, one: Case) -> dict[str, Any]:
    """Accuracy C of a copy recalibrated by torch, and by fvcore where it is installed, or the crash."""
    result: dict[str, Any] = {}
    copied = torchs_own(model)
    try:
        update_bn(one.train, copied)
        result["torch"] = accuracy(copied.eval(), one.held_out)
    except Exception as error:  # a crash is what is compared
        result["torch"] = f"{type(error).__name__}: {error}"[:200]
    try:
        from fvcore.nn.precise_bn import update_bn_stats
    except ImportError:
        return result
    copied = torchs_own(model).train()
    try:
        update_bn_stats(copied, (x for x, _ in one.train), len(one.train))
        result["fvcore"] = accuracy(copied.eval(), one.held_out)
    except Exception as error:
        result["fvcore"] = f"{type(error).__name__}: {error}"[:200]
    return result


def judge(plan: Plan, data: Data, out: Path) -> dict[str, Any]:
    """One case's line."""
    begin = time.perf_counter()
    one = case(plan, data, out)
    of_bodies = rows if plan.arch.startswith(OURS) else None
    diagnosis = diagnose(one.model, one.train, one.held_out, rows=of_bodies, **one.known)
    line = vars(plan) | {"case": plan.name, "expected": one.expected, "named": diagnosis.named}
    line |= {"causes": [c.check for c in diagnosis.causes], "suspicions": [s.check for s in diagnosis.suspicions]}
    line |= {"recovered": [round(c.recovered, 3) for c in diagnosis.causes]}
    line |= {"unexplained": diagnosis.unexplained, "verdict": diagnosis.verdict}
    line |= {"accuracies": diagnosis.accuracies, "seconds": round(time.perf_counter() - begin, 2)}
    fixed = [values["C"] for values in diagnosis.recalibration.values() if "C" in values]
    line |= {"after": diagnosis.causes[0].after if diagnosis.causes else None, "best": max(fixed, default=None)}
    line |= {"harmless": plan.kind in BY_EFFECT and not _costs(plan.kind, diagnosis)}
    if plan.kind in COMPARED and plan.strength == 1:
        line |= {"others": by_others(one.model, one)}
    return line


# A cause of these kinds is one only where it costs something: the doctor's first rule is that it blames what it can
# prove. Where the plant costs less than two points the case is counted apart.
BY_EFFECT = (
    "wide", "moved", "slow", "foreign", "loop", "padded", "displaced", "left_over", "dropped", "large_eps",
    "small_batches",
)  # fmt: skip
LEAST = 0.02


def _costs(kind: str, diagnosis: Diagnosis) -> bool:
    """Return whether any statistics do better than those that training left."""
    four, table_ = diagnosis.accuracies, diagnosis.recalibration.values()
    if kind == "displaced":
        return max([four["D"], *(values["C"] for values in table_ if "C" in values)]) > four["C"] + LEAST
    return max([four["B"], *(values["A"] for values in table_ if "A" in values)]) > four["A"] + LEAST


COMPARED = ("reset", "wide", "moved", "slow", "foreign", "averaged", "loop", "padded", "dropped", "half", "by_class")


# --- what came out ----------------------------------------------------------------------------------------------------


def table(lines: list[dict[str, Any]]) -> str:
    """Recall by kind and strength, precision, false alarms, and the others' recalibration."""
    harmless = [line for line in lines if line.get("harmless")]
    planted = [line for line in lines if line["kind"] != "healthy" and not line.get("harmless")]
    healthy = [line for line in lines if line["kind"] == "healthy"]
    rows_ = [f"{'kind':16} {'expected':22}" + "".join(f"{f'at {s}':>12}" for s in STRENGTHS)]
    groups: dict[tuple[str, str], dict[float, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for line in planted:
        right = _top(line)
        groups[line["kind"], "|".join(line["expected"])][line["strength"]].append(right)
    for (kind, expected), by in sorted(groups.items()):
        cells = [f"{sum(by[s])}/{len(by[s])}" if by[s] else "" for s in STRENGTHS]
        rows_.append(f"{kind:16} {expected:22}" + "".join(f"{cell:>12}" for cell in cells))
    full = [right for by in groups.values() for right in by[1.0]]
    every = [right for by in groups.values() for all_ in by.values() for right in all_]
    named = [
        line for line in planted if line["causes"] or line["suspicions"] or {"inputs", "shift"} & set(line["named"])
    ]
    top_right = sum(line["named"][0] in line["expected"] for line in named)
    alarms = [line for line in healthy + harmless if wrong(line)]
    rows_ += [
        f"cases {len(planted)} planted, {len(harmless)} planted but harmless (under 2 points), {len(healthy)} healthy",
        f"recall of the top-ranked cause: at full strength {_share(sum(full), len(full))}, "
        f"at all {_share(sum(every), len(every))}",
        f"precision of the top-ranked cause, where one is named: {_share(top_right, len(named))}",
        f"false alarms on healthy and harmless networks: {_share(len(alarms), len(healthy + harmless))}",
        *(f"  false alarm: {line['case']}: {', '.join(line['named'])}" for line in alarms[:9]),
    ]
    return "\n".join(rows_ + _others(planted))


def _top(line: dict[str, Any]) -> bool:
    return bool(line["named"]) and line["named"][0] in line["expected"]


def wrong(line: dict[str, Any]) -> bool:
    """Return whether the doctor names anything that was not planted (in a healthy or harmless case)."""
    return bool(set(line["causes"] + line["suspicions"]) - set(line["expected"]))


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {part / whole:.3f}" if whole else "none"


def _others(planted: list[dict[str, Any]]) -> list[str]:
    compared = [line for line in planted if "others" in line]
    if not compared:
        return []
    rows_ = [
        "",
        "evaluation accuracy (%), mean over cases at full strength: as it is, the doctor's remedy, the others'",
    ]
    for kind in sorted({line["kind"] for line in compared}):
        mine = [line for line in compared if line["kind"] == kind]
        before = sum(line["accuracies"]["C"] for line in mine) / len(mine)
        ours = [line["after"] if line["after"] is not None else line["accuracies"]["C"] for line in mine]
        text = f"{kind:16} {100 * before:6.1f} {100 * sum(ours) / len(ours):6.1f}"
        for tool in ("torch", "fvcore"):
            values = [line["others"][tool] for line in mine if tool in line["others"]]
            numbers = [value for value in values if isinstance(value, float)]
            if values:
                mean = f"{100 * sum(numbers) / len(numbers):6.1f}" if numbers else "     -"
                text += f"  {tool} {mean} ({len(values) - len(numbers)} of {len(values)} crash)"
        rows_.append(text)
    return rows_


class OnBatch(nn.Module):
    """A network of ours as a module of one batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        """Logits."""
        return self.network(batch.x_NCTVM, batch.present_NMT)


def compare(folders: list[Path]) -> None:
    """Evaluation accuracy of run folders: as they are, after the doctor's first remedy, after the others'."""
    for folder in folders:
        diagnosis, split = diagnose_run(folder, "test")
        run = Run(folder, torch.device("cpu"))
        config, loaded, splits, model = run.config, run.clips, run.splits, run.network()
        index_N, sizes = accuracies.probe(splits.fit(config.input.fit)), (config.input.frames, config.train.batch_size)
        train, held_out = (
            [(batch, batch.label_N) for batch in ClipBatches(loaded, part_N, *sizes)]
            for part_N in (index_N, splits.test)
        )
        others = by_others(OnBatch(model), Case(model, train, held_out, ()))
        best = diagnosis.causes[0] if diagnosis.causes else None
        ours = f"{best.check} {100 * best.after:.1f}" if best else "nothing named"
        shown = ", ".join(
            f"{tool} {100 * value:.1f}" if isinstance(value, float) else f"{tool} {value}"
            for tool, value in others.items()
        )
        print(f"{folder.name}: {split} {100 * diagnosis.accuracies['C']:.1f} %; doctor: {ours}; {shown}", flush=True)


def calibrate(names: dict[str, Data], out: Path) -> None:
    """The checks' quantities on healthy networks that are not reported: median, largest, and the limit."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for data in names.values():
        for arch in HEALTHY[data.skeletons] if data.x.dim() > 2 else ON_TABLES:
            for seed in CALIBRATION_SEEDS:
                model = trained(data, arch, seed, out)
                if batch_norms(model):
                    of_bodies = rows if arch.startswith(OURS) else None
                    _, seen = gather(model, data.train(seed=seed), data.held_out(), rows=of_bodies)
                    for quantity, value in quantities(seen):
                        found[quantity].append((value, f"{data.name} {arch} {seed}"))
    for quantity, values in found.items():
        ordered = sorted(values)
        limit = LIMITS[quantity]
        above = sum(value > limit for value, _ in ordered)
        print(
            f"{quantity:20} n {len(ordered):4}  median {ordered[len(ordered) // 2][0]:6.3f}  largest "
            f"{ordered[-1][0]:6.3f} ({ordered[-1][1]})  limit {limit:g}, above it {above}"
        )


LIMITS = {
    "shift": SHIFT_LIMIT, "ratio": RATIO_LIMIT, "variance below eps": EPS_SHARE, "dead scales": layer_checks.DEAD_SHARE,
    "correlated": 1.0, "gap": 1.0, "given": 1.0,
}  # fmt: skip


def quantities(seen: Evidence) -> Iterator[tuple[str, float]]:
    """The values that the checks compare with a limit; `correlated`, `gap` and `given` in units of their limit."""
    population = seen.train.layers()
    for name, layer in seen.layers.items():
        assert layer.running is not None
        assert layer.scale_C is not None
        yield "shift", mean_shift(population[name], layer.running)
        yield "ratio", variance_ratio(population[name], layer.running)
        yield "variance below eps", layer.drowned_share
        yield "dead scales", (layer.scale_C.abs() < layer_checks.DEAD_SCALE).double().mean().item()
    for site in seen.given.batches:
        between = between_batches(seen.given, seen.train, site)
        if between is not None:
            yield "correlated", between[0] / between[1]
    yield "gap", seen.gap / seen.threshold
    given = paired(seen.score["mixed"], seen.score["given_B"])
    yield "given_B", given.mean / given.threshold


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-doctor"), help="folder for data, networks and cases")
    parser.add_argument("--cases", type=int, help="only the first so many")
    parser.add_argument("--quick", action="store_true", help="full strength, seed 0 and the digits only")
    parser.add_argument("--calibrate", action="store_true", help="print healthy quantities, seeds 100 and up")
    parser.add_argument("--runs", type=Path, nargs="+", help="compare recalibrations on these run folders instead")
    parser.add_argument("--kind", help="only cases of this kind")
    parser.add_argument("--data", help="only cases on this data set: demo, nw_ucla, utd_mhad, digits")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    if options.runs:
        compare(options.runs)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    names = (
        {"digits": digits()}
        if options.quick or options.data == "digits"
        else {data.name: data for data in data_sets(options.out, options.calibrate)}
    )
    if options.calibrate:
        calibrate(names, options.out)
        return
    path = options.out / "cases.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    chosen = [p for p in plans(names) if options.kind in (None, p.kind) and options.data in (None, p.data)]
    if options.quick:
        chosen = [plan for plan in chosen if plan.strength == 1 and plan.seed % 10 == 0]
    chosen = chosen[: options.cases]
    known = {line["case"] for line in done}
    with path.open("a") as file:
        for plan in chosen:
            if plan.name in known:
                continue
            line = judge(plan, names[plan.data], options.out)
            done.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
            right = not wrong(line) if not line["expected"] or line["harmless"] else _top(line)
            print(f"{'ok ' if right else 'NO '} {plan.name}: {', '.join(line['named']) or '-'}", flush=True)
    wanted = {plan.name for plan in chosen}
    print(table([line for line in done if line["case"] in wanted]))


if __name__ == "__main__":
    main()

"""Compare recalibrate with torch's update_bn and fvcore's update_bn_stats (tests/bench/results/recalibrate.md).

    python tests/bench/recalibrate.py --seeds 5
    .venv-zoo/bin/python tests/bench/recalibrate.py --seeds 5    # with fvcore

Each case is a small network with data on which an average of batch statistics differs from the population's. The truth
is the mean and the variance of all inputs of each layer, collected in training mode with dropout off. Printed: the
largest relative error of a running variance over layers and channels, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from pipeline.normdoctor import recalibrate  # noqa: E402

Batches = list[Any]


class Twice(nn.Module):
    """One layer that is called on both halves of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Return both halves, normalized."""
        return self.norm(self.linear(x[:, :4])) + self.norm(self.linear(x[:, 4:]))


class Named(nn.Module):
    """A network that takes a named input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = plain()

    def forward(self, image: Tensor) -> Tensor:
        """Return the inner network's output."""
        result: Tensor = self.inner(image)
        return result


def plain() -> nn.Module:
    """Return two layers with a norm each."""
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
    )


def dropping() -> nn.Module:
    """Return a norm behind dropout."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))


def rows(seed: int) -> Tensor:
    """Return 1,000 rows (N, 8) on scales of their own."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1000, 8, generator=draw) * torch.logspace(-1, 1, 8) + torch.arange(8)


def ordered(x: Tensor) -> Tensor:
    """Return rows sorted by their largest value."""
    return x[x.amax(1).argsort()]


# Name -> network, rows -> batches.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Batches]]] = {
    "shuffled, equal batches": (plain, lambda x: list(x.split(50))),
    "batches in order": (plain, lambda x: list(ordered(x).split(50))),
    "uneven batches": (plain, lambda x: [x[:800], *x[800:].split(10)]),
    "a batch of one left over": (plain, lambda x: list(x[:951].split(50))),
    "a layer called twice": (Twice, lambda x: list(x.split(50))),
    "dropout": (dropping, lambda x: list(x.split(50))),
    "batches as dictionaries": (Named, lambda x: [{"image": part} for part in x.split(50)]),
}


def apply(model: nn.Module, batch: Any) -> Any:
    """Apply a network to a batch of ours."""
    return model(**batch) if isinstance(batch, dict) else model(batch)


def truth(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """Return the variance (C,) of all inputs of each layer, normalized by their batch above it, dropout off."""
    model = copy.deepcopy(model).eval()
    seen: dict[str, list[Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            layer.register_forward_pre_hook(lambda m, x, name=name: seen.setdefault(name, []).append(x[0].double()))
            layer.__dict__["forward"] = by_batch(layer)
    with torch.no_grad():
        for batch in batches:
            apply(model, batch)
    return {name: torch.cat(parts).var(0, correction=0) for name, parts in seen.items()}


def by_batch(layer: _BatchNorm) -> Callable[[Tensor], Tensor]:
    """Return a layer's formula by the statistics of the batch, one row included."""

    def forward(x: Tensor) -> Tensor:
        y = (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + layer.eps)
        return layer.weight * y + layer.bias

    return forward


def by_torch(model: nn.Module, batches: Batches) -> None:
    """Run torch.optim.swa_utils.update_bn."""
    update_bn(batches, model)


def by_fvcore(model: nn.Module, batches: Batches) -> None:
    """Run fvcore's precise batch norm."""
    from fvcore.nn.precise_bn import update_bn_stats

    update_bn_stats(model.train(), batches, len(batches), progress=None)


def by_us(model: nn.Module, batches: Batches) -> None:
    """Run recalibrate."""
    recalibrate(model, batches)


TOOLS = {"recalibrate": by_us, "update_bn": by_torch, "fvcore": by_fvcore}


def error(case: str, tool: str, seed: int) -> float | str:
    """Return the largest relative error of a running variance; the name of an error that the tool raises."""
    build, divide = CASES[case]
    torch.manual_seed(seed)
    model, batches = build(), divide(rows(seed))
    expected = truth(model, batches)
    try:
        TOOLS[tool](model, batches)
    except ImportError:
        return "not installed"
    except Exception as failure:  # a crash is a result
        return type(failure).__name__
    layers: dict[str, Any] = dict(model.named_modules())
    return max(((layers[name].running_var.double() / v - 1).abs().max().item() for name, v in expected.items()))


def cell(found: list[float | str]) -> str:
    """Return the results of the seeds in a few characters."""
    if isinstance(found[0], str):
        return str(found[0])
    numbers = [100 * float(value) for value in found]
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return f"{statistics.mean(numbers):.2g} ± {spread:.1g} %"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print(f"torch {torch.__version__}, n = {len(seeds)} seeds\n")
    print(f"| case | {' | '.join(TOOLS)} |\n|---|{'---|' * len(TOOLS)}")
    for case in CASES:
        print(f"| {case} | {' | '.join(cell([error(case, tool, seed) for seed in seeds]) for tool in TOOLS)} |")


if __name__ == "__main__":
    main()

"""Measure how often the norm doctor makes a false statement about healthy networks when their loader is reshuffled.

    python tests/bench/orders.py
    python tests/bench/orders.py --networks waves small_digits --orders 10
    python tests/bench/orders.py --table

Healthy networks of regression, classification and small batches, each with 40 orders of one shuffled loader. A
statement is false where plain passes of torch do not bear it out: leakage and correlated always (every order is
random), small where 20 compositions of small and of larger batches score alike, overfit where evaluation samples score
as well as training samples in eval mode, any other name where recomputed statistics gain nothing. One JSON line per
diagnosis in OUT/orders.jsonl; the same command resumes, so change OUT when the doctor has changed.
"""

from __future__ import annotations

import copy
import operator
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resumed
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

from pipeline.normdoctor import diagnose  # noqa: E402

Batches = list[tuple[Tensor, Tensor]]
# The least difference that bears a statement out, in the scale of the score: accuracy, or its standard deviation.
LEAST = 0.02
COMPOSITIONS, LARGER = 20, 4
SHUFFLED = ("leakage", "correlated")


@dataclass(frozen=True)
class Task:
    """Samples, a network and what it is trained for."""

    data: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]
    """Returns x, y, x_eval, y_eval."""
    network: Callable[[], nn.Module]
    size: int
    """Samples per batch."""
    classes: bool
    """True: cross-entropy and accuracy; False: squared error."""
    epochs: int = 12

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Training loss."""
        return functional.cross_entropy(output, y) if self.classes else functional.mse_loss(output, y)

    def metric(self, output: Tensor, batch: Any) -> Tensor:
        """Score of each sample, higher is better."""
        if self.classes:
            return output.argmax(1) == batch[1]
        return -(output - batch[1]).square().mean(1)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x_N1HW = torch.from_numpy(x).float().reshape(-1, 1, 8, 8)[order] / 8 - 1
    label_N = torch.from_numpy(y).long()[order]
    return x_N1HW[:1200], label_N[:1200], x_N1HW[1200:], label_N[1200:]


def waves() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy sine waves (N, 1, 64) and their frequencies (N, 1)."""
    draw = torch.Generator().manual_seed(0)
    frequency = 1 + 4 * torch.rand((1600, 1, 1), generator=draw)
    phase = 6.28 * torch.rand((1600, 1, 1), generator=draw)
    time_ = torch.linspace(0, 1, 64)[None, None]
    x = torch.sin(6.28 * frequency * time_ + phase) + 0.1 * torch.randn((1600, 1, 64), generator=draw)
    return x[:1200], frequency[:1200, 0], x[1200:], frequency[1200:, 0]


def table_of_numbers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eight numbers of different scales (N, 8) and a smooth function of two of them with noise (N, 1)."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn((1600, 8), generator=draw) * torch.logspace(0, 2, 8) + 30
    noise = 0.5 * torch.randn((1600, 1), generator=draw)
    y = (x[:, :1] - 30) + ((x[:, 1:2] - 30) / 2).sin() + noise
    return x[:1200], y[:1200], x[1200:], y[1200:]


def of_pictures() -> nn.Module:
    """Two convolutions."""
    first = (nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(128, 10))


def of_waves() -> nn.Module:
    """Two convolutions over time."""
    first = (nn.Conv1d(1, 16, 7, padding=3), nn.BatchNorm1d(16), nn.ReLU())
    second = (nn.Conv1d(16, 32, 7, stride=2, padding=3), nn.BatchNorm1d(32), nn.ReLU())
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 1))


def of_numbers() -> nn.Module:
    """Two hidden layers, with a norm at the input."""
    hidden = (nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    return nn.Sequential(nn.BatchNorm1d(8), *hidden, nn.Linear(64, 1))


TASKS = {
    "waves": Task(waves, of_waves, 32, classes=False),
    "numbers": Task(table_of_numbers, of_numbers, 32, classes=False, epochs=20),
    "digits": Task(digits, of_pictures, 32, classes=True, epochs=6),
    "small_waves": Task(waves, of_waves, 8, classes=False, epochs=6),
    "small_numbers": Task(table_of_numbers, of_numbers, 8, classes=False, epochs=8),
    "small_digits": Task(digits, of_pictures, 8, classes=True, epochs=3),
}


def cut(x: Tensor, y: Tensor, size: int, seed: int | None = None) -> Batches:
    """Return batches, shuffled by a seed."""
    order = torch.arange(len(x))
    if seed is not None:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [(x[i], y[i]) for i in order.split(size)]


def healthy(task: Task) -> nn.Module:
    """Train a network and recompute its statistics."""
    torch.manual_seed(0)
    x, y, *_ = task.data()
    model = task.network()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    steps = task.epochs * -(-len(x) // task.size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(task.epochs):
        for a, b in cut(x, y, task.size, seed=1000 + epoch):
            optimizer.zero_grad()
            task.loss(model(a), b).backward()
            optimizer.step()
            schedule.step()
    update_bn(cut(x, y, task.size, seed=2000) * 2, model)
    return model.eval()


# --- what is true -----------------------------------------------------------------------------------------------------


def score(task: Task, model: nn.Module, batches: Batches) -> Tensor:
    """Score each sample in the mode that the model is in."""
    with torch.no_grad():
        return torch.cat([task.metric(model(x), (x, y)).double() for x, y in batches])


def facts(task: Task, model: nn.Module) -> dict[str, float]:
    """Measure by plain passes what the statements are about, in the scale of the score."""
    x, y, x_eval, y_eval = task.data()
    train, held_out = cut(x, y, task.size), cut(x_eval, y_eval, task.size)
    on_train, on_eval = score(task, model, train), score(task, model, held_out)
    scale = 1.0 if task.classes else on_train.std().item()
    fresh = copy.deepcopy(model)
    update_bn(cut(x, y, task.size, seed=3000), fresh)
    gain = max(
        (score(task, fresh.eval(), part) - before).mean().item()
        for part, before in ((train, on_train), (held_out, on_eval))
    )
    in_training = copy.deepcopy(model).train()
    small, large = (
        sum(score(task, in_training, cut(x, y, size, seed)).mean().item() for seed in range(COMPOSITIONS))
        for size in (task.size, LARGER * task.size)
    )
    return {
        "recomputed": gain / scale,
        "larger": (large - small) / COMPOSITIONS / scale,
        "evaluation": (on_train.mean() - on_eval.mean()).item() / scale,
    }


def false_names(named: list[str], true: dict[str, float]) -> list[str]:
    """Return the names that plain passes do not bear out."""
    borne_out = {
        "small": abs(true["larger"]) >= LEAST,
        "overfit": true["evaluation"] >= LEAST,
        **dict.fromkeys(SHUFFLED, False),
    }
    return [name for name in named if not borne_out.get(name, true["recomputed"] >= LEAST)]


# --- the run ----------------------------------------------------------------------------------------------------------


def judged(name: str, orders: list[int]) -> Iterator[dict[str, Any]]:
    """Yield a line per order of one network's loader."""
    task = TASKS[name]
    model = healthy(task)
    true = facts(task, model)
    x, y, x_eval, y_eval = task.data()
    held_out = cut(x_eval, y_eval, task.size)
    for order in orders:
        begin = time.perf_counter()
        how: dict[str, Any] = {} if task.classes else {"metric": task.metric}
        found = diagnose(model, cut(x, y, task.size, seed=order), held_out, **how)
        yield {
            "network": name,
            "order": order,
            "named": found.named,
            "false": false_names(found.named, true),
            "facts": true,
            "seconds": round(time.perf_counter() - begin, 2),
        }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results per network as a Markdown table."""
    rows = ["| network | orders | with a false statement | statements, of them false |", "|" + "---|" * 4]
    by_network = {name: [line for line in lines if line["network"] == name] for name in TASKS}
    rows += [_row(name, mine) for name, mine in by_network.items() if mine]
    return "\n".join([*rows, _row("**all**", lines)])


def _row(name: str, lines: list[dict[str, Any]]) -> str:
    named = Counter(one for line in lines for one in line["named"])
    false = Counter(one for line in lines for one in line["false"])
    wrong = sum(bool(line["false"]) for line in lines)
    each = ", ".join(f"{one} {count} ({false[one]})" for one, count in named.most_common()) or "none"
    share = f"{wrong} of {len(lines)} = {100 * wrong / len(lines):.1f} %" if lines else "-"
    return f"| {name} | {len(lines)} | {share} | {each} |"


def measure(missing: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of networks and orders."""
    for name in [name for name in TASKS if any(name == one for one, _ in missing)]:
        yield from judged(name, sorted(order for one, order in missing if one == name))


def shown(line: dict[str, Any]) -> str:
    """Return a line in words."""
    return f"{'NO ' if line['false'] else 'ok '} {line['network']} {line['order']}: {', '.join(line['named']) or '-'}"


def main() -> None:
    """See the top of the file."""
    parser = resumed.parser(__doc__ or "", "bench-orders", TASKS)
    parser.add_argument("--orders", type=int, default=40, help="orders of each network's loader")
    options = parser.parse_args()
    wanted = {(name, order) for name in options.networks for order in range(options.orders)}
    key = operator.itemgetter("network", "order")
    print(table(resumed.lines_of(options, "orders.jsonl", wanted, key, measure, shown)))


if __name__ == "__main__":
    main()

"""Measure whether the norm doctor names averaged weights that carry the batch-norm statistics of another network.

    python tests/bench/averages.py
    python tests/bench/averages.py --networks residual dense --seeds 1
    python tests/bench/averages.py --table

EMA with three decays and SWA over three parts of the training, of six networks on scikit-learn's digits, handed over as
torch's AveragedModel, as its `.module`, and as a state dict loaded into a fresh network. The averages copy the buffers
of the last network, as torch's do by default. Twins: buffers averaged too, and statistics recomputed by torch's
`update_bn`. A case costs something where a recomputation from outside gains two points on training and on evaluation
samples: then averaging, foreign or stale is right. Elsewhere any cause is a false alarm. Cases within a point of that
limit are counted once more apart: there the doctor's limit and this one may disagree. One JSON line per case in
OUT/averages.jsonl; the same command resumes, so change OUT when the doctor has changed.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import resumed
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

HOME = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HOME)]

from pipeline.normdoctor import diagnose  # noqa: E402

EPOCHS, BATCH = 6, 32
RATE = 0.2  # so large that the weights wander, and their average lies elsewhere
LOWER_RATE = {"residual": 0.07}
EMA_DECAYS = (0.9, 0.98, 0.995)
SWA_STARTS = (0.25, 0.5, 0.75)  # shares of the training before the first average
FORMS = ("averaged_model", "module", "state_dict")
TWINS = ("buffers_averaged", "recomputed")
RIGHT = ("averaging", "foreign", "stale")
COST = 0.02  # the least that a recomputation gains where statistics are a cause
NEAR = 0.01  # a gain that is as near to it may be on either side
Batches = list[tuple[Tensor, Tensor]]


def digits() -> tuple[Batches, Batches]:
    """Training batches, shuffled, and evaluation batches of scikit-learn's digits (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x_N1HW = torch.from_numpy(x).float().reshape(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = [(x_N1HW[i], torch.from_numpy(y)[i].long()) for i in order.split(BATCH)]
    return batches[:32], batches[32:-1]


# --- networks ---------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 16)
        self.a, self.b = block(16, 16), block(16, 16)
        self.out = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.stem(x)
        h = h + self.a(h)
        return self.out(functional.max_pool2d(h + self.b(h), 2).flatten(1))


class Preactivated(nn.Module):
    """Norm and activation in front of each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)) for _ in range(3)
        )
        self.last, self.out = nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.stem(x)
        for part in self.parts:
            h = h + part(h)
        return self.out(torch.relu(self.last(h)).mean((2, 3)))


def block(inputs: int, outputs: int, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, norm, activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def dense() -> nn.Module:
    """Three linear layers."""
    parts = (nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(64, 10))


def plain() -> nn.Module:
    """Convolutions and pooling, as VGG has them."""
    parts = (block(1, 16), block(16, 16), nn.MaxPool2d(2), block(16, 32), block(32, 32), nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(128, 10))


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions, as MobileNet has them."""
    parts = (block(1, 24), block(24, 24, 24), block(24, 48, 1, 1), nn.MaxPool2d(2), block(48, 48, 48))
    return nn.Sequential(*parts, block(48, 48, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def rows() -> nn.Module:
    """Convolutions over the rows of a picture."""
    first = (nn.Flatten(1, 2), nn.Conv1d(8, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU())
    second = (nn.Conv1d(32, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, *second, nn.Linear(256, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual, "preactivated": Preactivated, "plain": plain, "separable": separable, "dense": dense,
    "rows": rows,
}  # fmt: skip


# --- averages ---------------------------------------------------------------------------------------------------------


def averages(name: str, seed: int, train: Batches) -> dict[str, AveragedModel]:
    """Train a network once and average its weights in all ways: KIND-DECAY, with or without its buffers."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    made: dict[str, AveragedModel] = {}
    optimizer = torch.optim.SGD(model.parameters(), LOWER_RATE.get(name, RATE), momentum=0.9)
    steps, last = 0, EPOCHS * len(train)
    every_x, every_y = (torch.cat(column) for column in zip(*train, strict=True))
    model.train()
    for _ in range(EPOCHS):
        for i in torch.randperm(len(every_x)).split(BATCH):
            x, y = every_x[i], every_y[i]
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            steps += 1
            for decay in EMA_DECAYS:
                _add(made, f"ema-{decay}", model, get_ema_multi_avg_fn(decay))
            for start in SWA_STARTS:
                if steps > start * last and steps % len(train) == 0:
                    _add(made, f"swa-{start}", model, None)
    return made


def _add(made: dict[str, AveragedModel], key: str, model: nn.Module, how: Any) -> None:
    """Add the network's weights to an average without and to one with its buffers."""
    for suffix, buffers in (("", False), ("-buffers", True)):
        if key + suffix not in made:
            made[key + suffix] = AveragedModel(model, multi_avg_fn=how, use_buffers=buffers)
        made[key + suffix].update_parameters(model)


def handed_over(name: str, average: AveragedModel, form: str) -> nn.Module:
    """Return an average as a user passes it to the doctor, in eval mode."""
    if form == "averaged_model":
        return average.eval()
    if form == "module":
        return average.module.eval()
    fresh = NETWORKS[name]()
    fresh.load_state_dict({key[7:]: value for key, value in average.state_dict().items() if key.startswith("module.")})
    return fresh.eval()


def cases(name: str, seed: int, train: Batches, wanted: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the wanted cases: NETWORK/KIND-DECAY/FORM/SEED, and the model."""
    made = averages(name, seed, train)
    for key in (key for key in made if not key.endswith("-buffers")):
        for form in FORMS:
            if (case := f"{name}/{key}/{form}/{seed}") in wanted:
                yield case, handed_over(name, copy.deepcopy(made[key]), form)
        for twin in TWINS:
            if (case := f"{name}/{key}/{twin}/{seed}") in wanted:
                average = copy.deepcopy(made[key + "-buffers" if twin == "buffers_averaged" else key])
                if twin == "recomputed":
                    update_bn(train, average)
                # torch's AveragedModel says of itself whether it averages buffers: what is recomputed is its module.
                yield case, handed_over(name, average, "module")


def all_cases(networks: list[str], seeds: int) -> list[str]:
    """Return the names of all cases."""
    keys = [f"ema-{decay}" for decay in EMA_DECAYS] + [f"swa-{start}" for start in SWA_STARTS]
    every = (*FORMS, *TWINS)
    return [f"{n}/{key}/{form}/{seed}" for seed in range(seeds) for n in networks for key in keys for form in every]


# --- judgement --------------------------------------------------------------------------------------------------------


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Accuracy in eval mode."""
    with torch.no_grad():
        right = torch.cat([model.eval()(x).argmax(1) == y for x, y in batches])
    return right.double().mean().item()


def judge(case: str, model: nn.Module, train: Batches, held_out: Batches) -> dict[str, Any]:
    """Return a case's line."""
    fresh = copy.deepcopy(model)
    update_bn(train, fresh)
    gains = [accuracy(fresh, part) - accuracy(model, part) for part in (train, held_out)]
    begin = time.perf_counter()
    found = diagnose(model, train, held_out)
    return {
        "case": case,
        "gain_train": gains[0],
        "gain_eval": gains[1],
        "costs": min(gains) >= COST,
        "named": found.named,
        "causes": [cause.check for cause in found.causes],
        "suspicions": [suspicion.check for suspicion in found.suspicions],
        "accuracies": found.accuracies,
        "verdict": found.verdict[:300],
        "seconds": round(time.perf_counter() - begin, 2),
    }


def right(line: dict[str, Any]) -> bool:
    """Return whether a case that costs something is named, and any other is not blamed on its statistics."""
    if line["costs"]:
        return bool(line["named"]) and line["named"][0] in RIGHT
    return not line["causes"]


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results per form as a Markdown table, and what is wrong below it."""
    rows_ = ["| handed over as | kind | costs something | named first | harmless | false causes |", "|" + "---|" * 6]
    for form in (*FORMS, *TWINS):
        for kind in ("ema", "swa"):
            mine = [line for line in lines if line["case"].split("/")[2] == form and f"/{kind}-" in line["case"]]
            rows_.append(_row(f"{form} | {kind}", mine))
    rows_.append(_row("**all** | ", lines))
    rows_.append(_row("**all but those near the limit** | ", [line for line in lines if not is_near(line)]))
    wrong = [f"* {line['case']}: {', '.join(line['named']) or 'nothing'}" for line in lines if not right(line)]
    return "\n".join([*rows_, "", *wrong])


def is_near(line: dict[str, Any]) -> bool:
    """Return whether a case costs about as much as the limit."""
    return abs(min(line["gain_train"], line["gain_eval"]) - COST) < NEAR


def _row(head: str, lines: list[dict[str, Any]]) -> str:
    costly = [line for line in lines if line["costs"]]
    harmless = [line for line in lines if not line["costs"]]
    named, alarms = sum(map(right, costly)), sum(not right(line) for line in harmless)
    return f"| {head} | {len(costly)} | {named} of {len(costly)} | {len(harmless)} | {alarms} of {len(harmless)} |"


def measure(missing: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of cases."""
    train, held_out = digits()
    for name, seed in sorted({(case.split("/")[0], int(case.split("/")[-1])) for case in missing}):
        for case, model in cases(name, seed, train, missing):
            yield judge(case, model, train, held_out)


def shown(line: dict[str, Any]) -> str:
    """Return a line in words."""
    cost = f"{100 * line['gain_eval']:.1f} points" if line["costs"] else "harmless"
    return f"{'ok ' if right(line) else 'NO '} {line['case']} ({cost}): {', '.join(line['named']) or '-'}"


def main() -> None:
    """See the top of the file."""
    parser = resumed.parser(__doc__ or "", "bench-averages", NETWORKS)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network")
    options = parser.parse_args()
    wanted = set(all_cases(options.networks, options.seeds))
    print(table(resumed.lines_of(options, "averages.jsonl", wanted, lambda line: line["case"], measure, shown)))


if __name__ == "__main__":
    main()

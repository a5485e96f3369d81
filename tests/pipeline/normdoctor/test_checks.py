"""checks: each planted cause is named first, the healthy network it was planted in gets nothing."""

import copy
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.doctor import Diagnosis, History, decayed_scales, diagnose
from pipeline.normdoctor.checks import CHECKS, REST
from pipeline.normdoctor.collector import Seen
from pipeline.normdoctor.moments import Moments
from tests.pipeline.normdoctor.planted import Batches, Small, data, in_class_order, norms, refreshed, trained

TRAIN, HELD_OUT = data(0), data(1)
Case = tuple[nn.Module, Batches, Batches, dict[str, Any]]


@pytest.fixture(scope="module")
def healthy() -> nn.Module:
    """Trained once."""
    torch.manual_seed(0)
    return trained(Small(), TRAIN)


class Stuck(Small):
    """A network that never leaves training mode."""

    def train(self, mode: bool = True) -> nn.Module:
        """As always."""
        return super().train(True)


def stuck(model: nn.Module) -> Case:
    """eval() does nothing."""
    other = Stuck()
    other.load_state_dict(model.state_dict())
    return other, TRAIN, HELD_OUT, {}


def reset(model: nn.Module) -> Case:
    """One layer's buffers lost."""
    norms(model)[0].reset_running_stats()
    return model, TRAIN, HELD_OUT, {}


def half(model: nn.Module) -> Case:
    """The whole network in half precision."""
    return model.half(), *([(x.half(), y) for x, y in part] for part in (TRAIN, HELD_OUT)), {}


def eps(model: nn.Module) -> Case:
    """eps above the variance."""
    for layer in norms(model):
        layer.eps = 50 * float(layer.running_var.max())
    return model, TRAIN, HELD_OUT, {}


def averaged(model: nn.Module) -> Case:
    """Other weights, the buffers of the trained network."""
    source = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.first.weight *= 0.3
        model.norm1.weight += 0.001
        model.norm2.weight += 0.001
    return model, TRAIN, HELD_OUT, {"history": History(source=source)}


def ranks(model: nn.Module) -> Case:
    """Two ranks with half the classes each."""
    ordered = in_class_order(TRAIN)
    states = []
    for part in (ordered[8:], ordered[:8]):
        refreshed(model, part[::2] * 6 + part[1::2] * 6, 0.05)
        states.append({name: x.clone() for name, x in model.named_buffers()})
    return model, TRAIN, HELD_OUT, {"history": History(ranks=states)}


def correlated(model: nn.Module) -> Case:
    """The loader is sorted by class, the statistics are of the last."""
    ordered = in_class_order(TRAIN)
    return refreshed(model, ordered, 0.5), ordered, HELD_OUT, {}


def leaking(model: nn.Module) -> Case:
    """Trained on batches of one class: the batch tells it."""
    ordered = in_class_order(data(0, count=24))
    mixed = [ordered[i] for i in torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()]
    torch.manual_seed(0)

    class Reader(Small):
        """The batch's mean is an input."""

        def forward(self, x: Tensor) -> Tensor:
            """Logits."""
            return super().forward(0.02 * x) + 50 * (x.mean(0)[:3] - 4.5)

    reader = Reader()
    return trained(reader, mixed, 20, shuffle=False), ordered, HELD_OUT, {}


def updates(model: nn.Module) -> Case:
    """Two updates a step."""
    return model, TRAIN, HELD_OUT, {"history": History(steps=int(model.norm1.num_batches_tracked) // 2)}


def lone(model: nn.Module) -> Case:
    """A batch of one sample left over."""
    return model, [*TRAIN, (TRAIN[0][0][:1], TRAIN[0][1][:1])], HELD_OUT, {}


def dropout(model: nn.Module) -> Case:
    """Dropout between the norms, statistics taken with it."""
    other = Small(dropout=0.7)
    other.load_state_dict(model.state_dict())
    return refreshed(other, TRAIN * 3, 0.05), TRAIN, HELD_OUT, {}


def stale(model: nn.Module) -> Case:
    """A few updates at a small momentum."""
    return refreshed(model, TRAIN, 0.002), TRAIN, HELD_OUT, {}


class Restyled(nn.Module):
    """Sees rows of any gain and level; instance norms with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv1d(1, 8, 3, padding=1), nn.InstanceNorm1d(8, track_running_stats=True)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        return self.out(torch.relu(self.norm1(self.first(x[:, None]))).flatten(1))


def restyled(batches: Batches) -> Batches:
    """Each sample with a gain and a level of its own."""
    draw = torch.Generator().manual_seed(5)

    def changed(x: Tensor) -> Tensor:
        gain, level = (torch.rand(len(x), 1, generator=draw) for _ in range(2))
        return (x - 4) * (0.1 + 3 * gain) + 20 * level

    return [(changed(x), y) for x, y in batches]


def instance(model: nn.Module) -> Case:
    """Training normalizes each sample by itself."""
    torch.manual_seed(0)
    train = restyled(TRAIN)
    return trained(Restyled(), train), train, restyled(HELD_OUT), {}


def small(model: nn.Module) -> Case:
    """Trained and fed in batches of two."""
    torch.manual_seed(0)
    pairs = [(x[i : i + 2], y[i : i + 2]) for x, y in TRAIN for i in range(0, 32, 2)]
    return trained(Small(), pairs, 256), pairs, HELD_OUT, {}


def decayed(model: nn.Module) -> Case:
    """Half the scales are nothing, and the optimizer decays them."""
    with torch.no_grad():
        model.norm2.weight[:16] = 0
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    return model, TRAIN, HELD_OUT, {"history": History(decayed=decayed_scales(model, optimizer))}


def padded(model: nn.Module) -> Case:
    """Three quarters of every batch are empty rows, the statistics count them, and the score does not."""

    def filled(batches: Batches) -> Batches:
        return [(torch.cat([x, torch.zeros(3 * len(x), 8)]).unflatten(0, (4, len(x))).transpose(0, 1), y)
                for x, y in batches]  # fmt: skip

    class Padded(Small):
        """One real row and three empty ones a sample."""

        def forward(self, x: Tensor) -> Tensor:
            """Logits of the real rows."""
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])[:, 0]

    other = Padded()
    other.load_state_dict(model.state_dict())
    rows = {"rows": lambda batch, x, call: (batch[0] != 0).any(-1).flatten()}
    return refreshed(other, filled(TRAIN), 0.3), filled(TRAIN), filled(HELD_OUT), rows


def foreign(model: nn.Module) -> Case:
    """Statistics of other data, which 500 updates at momentum 0.1 cannot lag behind."""
    refreshed(model, [(3 * x, y) for x, y in TRAIN], 0.1)
    for layer in norms(model):
        layer.num_batches_tracked.fill_(500)
    return model, TRAIN, HELD_OUT, {}


PLANTED: dict[str, tuple[Callable[[nn.Module], Case], tuple[str, ...]]] = {
    "stuck": (stuck, ("mode",)),
    "reset": (reset, ("buffers",)),
    "half": (half, ("precision",)),
    "eps": (eps, ("precision",)),
    "averaged": (averaged, ("averaging",)),
    "ranks": (ranks, ("ranks",)),
    "correlated": (correlated, ("correlated",)),
    "leaking": (leaking, ("leakage", "correlated")),
    "updates": (updates, ("updates",)),
    "lone": (lone, ("lone",)),
    "dropout": (dropout, ("dropout",)),
    "stale": (stale, ("stale",)),
    "foreign": (foreign, ("foreign",)),
    "instance": (instance, ("instance",)),
    "small": (small, ("small",)),
    "decayed": (decayed, ("decay",)),
    "padded": (padded, ("padding",)),
}


def diagnosed(healthy: nn.Module, plant: Callable[[nn.Module], Case]) -> Diagnosis:
    """The diagnosis of a plant in a copy."""
    model, train, held_out, known = plant(copy.deepcopy(healthy))
    return diagnose(model, train, held_out, **known)


# Plants that cost the small network nothing: running statistics score as well as those of the batch.
HARMLESS = ("dropout",)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_costs_nothing_is_evidence_and_no_suspicion(healthy: nn.Module, name: str) -> None:
    """The table of checks shows it; the verdict suspects nothing."""
    diagnosis = diagnosed(healthy, PLANTED[name][0])
    assert diagnosis.checks[name]
    assert not [*diagnosis.causes, *diagnosis.suspicions], diagnosis.verdict


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in HARMLESS])
def test_a_planted_cause_is_named_first(healthy: nn.Module, name: str) -> None:
    """Its check stands before every other."""
    plant, expected = PLANTED[name]
    diagnosis = diagnosed(healthy, plant)
    assert diagnosis.named[0] in expected, diagnosis.verdict
    assert diagnosis.checks[expected[0]]


@pytest.mark.parametrize(
    "name", ["stuck", "reset", "eps", "averaged", "ranks", "correlated", "stale", "foreign", "padded", "instance"]
)
def test_its_remedy_recovers_what_it_cost(healthy: nn.Module, name: str) -> None:
    """Measured on the evaluation samples: nearly what the healthy network has."""
    cause = diagnosed(healthy, PLANTED[name][0]).causes[0]
    well = diagnose(healthy, TRAIN, HELD_OUT).accuracies["C"]
    assert cause.after > well - 0.05
    assert cause.interval[0] <= cause.after - cause.before <= cause.interval[1]
    if name != "stuck":
        assert cause.before < well - 0.02
        assert cause.recovered > 0.8


def test_a_healthy_network_gets_nothing(healthy: nn.Module) -> None:
    """The control: no check of CHECKS sees anything in it but staleness-free statistics."""
    diagnosis = diagnose(healthy, TRAIN, HELD_OUT)
    assert diagnosis.causes == []
    assert diagnosis.suspicions == []
    assert {name for name, text in diagnosis.checks.items() if text} == set()
    assert "not to blame" in diagnosis.verdict


def test_every_check_fires_on_something_planted() -> None:
    """No check without a case (mode is also planted in test_doctor, reuse only there)."""
    assert {name for _, expected in PLANTED.values() for name in expected} | {"reuse"} == set(CHECKS)
    assert set(REST) == {"inputs", "random", "shift", "overfit"}


def test_a_shift_is_not_normalization_and_says_where(healthy: nn.Module) -> None:
    """Evaluation samples moved: C falls, D does not; group 1 is the farthest."""
    moved = [(torch.where((y % 2 == 1)[:, None], x + 3, x + 1.5), y) for x, y in HELD_OUT]
    groups = {"camera": lambda batch: (batch[1] % 2 == 1).long()}
    diagnosis = diagnose(healthy, TRAIN, moved, groups=groups)
    assert diagnosis.causes == []
    assert [loss.check for loss in diagnosis.rest[:2]] == ["inputs", "shift"]  # already in the raw inputs
    assert diagnosis.rest[1].after > diagnosis.rest[1].before + 0.03
    assert "farthest camera 1" in diagnosis.verdict
    assert diagnosis.groups["camera"][1][2] > diagnosis.groups["camera"][0][2]


def test_learned_by_heart_is_overfit_not_normalization() -> None:
    """Random labels: nothing of it is the norm's."""
    draw = torch.Generator().manual_seed(0)
    train = [(x, torch.randint(3, (32,), generator=draw)) for x, _ in TRAIN[:4]]
    held_out = [(x, torch.randint(3, (32,), generator=draw)) for x, _ in HELD_OUT]
    torch.manual_seed(0)
    diagnosis = diagnose(trained(Small(), train, 400), train, held_out)
    assert "overfit" in diagnosis.named
    assert diagnosis.causes == []


@pytest.mark.parametrize(
    ("variance", "batches", "fires"),
    [(1e-3, 16, True), (1e-3, 4, False), (1e-9, 16, False)],
    ids=["many", "few batches", "rounding"],
)
def test_chance_and_rounding_are_not_correlated_batches(variance: float, batches: int, fires: bool) -> None:
    """Means six times as far apart as shuffled ones (in variance): an order, unless so few or so near."""

    def seen(between: float) -> Seen:
        site, zero = ("norm", 0), torch.zeros(8)
        means = Moments(zero, zero + between, 1.0)
        return Seen({site: Moments(zero, zero + 1, 1.0)}, {}, {site: means}, Counter({site: batches}), Counter())

    evidence = SimpleNamespace(given=seen(6 * variance), train=seen(variance), own_batches=None, shares=None)
    assert (CHECKS["correlated"].run(evidence) is not None) == fires  # type: ignore[arg-type]

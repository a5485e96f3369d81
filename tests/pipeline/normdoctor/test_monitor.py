"""monitor: announcements, and a training whose numbers it does not change."""

import copy
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from pipeline.normdoctor import Monitor, NormalizationWarning
from pipeline.normdoctor.budget import Budget
from pipeline.normdoctor.measurement import passes
from pipeline.normdoctor.watched import Watched
from tests.pipeline.normdoctor.planted import Batches, Small, data, norms, trained

ROOT = Path(__file__).parents[3]


def endless(batches: Batches, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of samples, drawn for each step."""
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    draw = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(x), (64,), generator=draw)
        yield x[chosen], y[chosen]


def train(
    model: nn.Module, monitor: Monitor, steps: int, average: AveragedModel | None = None, spread: float = 0.0
) -> None:
    """Adam on batches of 64, each on a scale of its own if there is a spread of scales."""
    torch.manual_seed(0)
    scales = torch.exp(spread * torch.randn(steps, generator=torch.Generator().manual_seed(1)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for scale, (samples, y) in zip(scales, endless(data(0)), strict=False):
        x = scale * samples
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        monitor.step((x, y))


def small(momentum: float = 0.1) -> nn.Module:
    """A network with a momentum."""
    torch.manual_seed(0)
    model = Small()
    for layer in norms(model):
        layer.momentum = momentum
    return model


# --- announcements ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "check"), [(0.0, "buffers"), (0.001, "stale")])
def test_statistics_that_cannot_follow_are_announced_within_200_steps(momentum: float, check: str) -> None:
    """Once, with the step, the cause and the remedy; unusual momenta are measured early, whatever a step takes."""
    model = small(momentum)
    monitor = Monitor(model)
    with pytest.warns(NormalizationWarning) as caught:
        train(model, monitor, 240)
    assert sum(one.category is NormalizationWarning for one in caught) == 1
    said = monitor.announcement
    assert said is not None
    assert said.step <= 200
    assert said.diagnosis.causes[0].check == check
    message = next(str(one.message) for one in caught if one.category is NormalizationWarning)
    assert f"normdoctor at step {said.step}: " in message
    assert f"Remedy: {said.diagnosis.causes[0].remedy}." in message


@pytest.mark.filterwarnings("ignore::pipeline.normdoctor.NormalizationWarning")
@pytest.mark.parametrize("spread", [0.0, 2.0], ids=["batches alike", "batches on scales of their own"])
def test_statistics_of_the_last_batch_are_announced_where_batches_differ(spread: float) -> None:
    """By momentum 0.99 the gap comes and goes: all measurements together prove it."""
    monitor = Monitor(model := small(0.99))
    train(model, monitor, 200, spread=spread)
    said = monitor.announcement
    assert (said is not None) == bool(spread)
    assert said is None or said.diagnosis.named[0] in ("correlated", "stale")


@pytest.mark.filterwarnings("error")
def test_a_healthy_training_is_not_announced() -> None:
    """Measured every 20 steps."""
    model = small()
    monitor = Monitor(model, data(1), every=20)
    train(model, monitor, 200)
    assert monitor.announcement is None
    assert len(monitor.measurements) >= 8
    last = monitor.measurements[-1]
    assert set(last.scores) == set("ABCD")
    assert last.scores["A"] > 0.9
    assert last.gap["normalization"] == last.scores["B"] - last.scores["A"] == last.cost.mean
    assert last.gap["generalization"] == pytest.approx(last.scores["B"] - last.scores["D"])


def test_swa_of_a_network_with_momentum_0_is_announced() -> None:
    """The average is watched; while it averages nothing, nothing is measured."""
    model = small(0.0)
    average = AveragedModel(model)
    monitor = Monitor(average, every=10)
    train(model, monitor, 30)
    assert not monitor.measurements
    with pytest.warns(NormalizationWarning, match="buffers|averag"):
        train(model, monitor, 100, average)
    assert monitor.announcement is not None


def test_the_scores_are_those_of_the_present_weights() -> None:
    """Against a pass in eval mode and one in training mode, from outside; layers in eval mode are frozen."""
    model = small()
    monitor = Monitor(model, every=1)
    x, y = data(3)[0]
    for _ in range(3):
        with torch.no_grad():
            model.first.weight.normal_()
            model.norm2.running_mean.normal_()
        for _ in range(4):
            monitor.step((x, y))
        for name, mode in (("A", False), ("B", True)):
            twin = copy.deepcopy(model).train(mode)
            twin.norm2.train(mode and model.norm2.training)
            right = (twin(x).argmax(1) == y).double().mean().item()
            assert monitor.measurements[-1].scores[name] == pytest.approx(right)
        model.norm2.eval()
    assert len({one.scores["A"] for one in monitor.measurements}) == 3


@pytest.mark.parametrize(
    ("causes", "shift", "ratio", "over_soon"),
    [
        (["foreign"], 0.1, 1.1, True),
        ([], 0.1, 1.1, True),
        (["foreign"], 0.3, 1.1, False),
        (["stale"], 0.1, 2.5, False),
        (["reuse"], 0.1, 1.1, False),
        (["foreign"], None, 1.1, False),
    ],
)
def test_a_small_lag_passes(causes: list[str], shift: float | None, ratio: float, over_soon: bool) -> None:
    """Statistics near those of the samples, and no other cause; an unknown distance is not near."""
    layers = [{"train": {"shift": shift, "ratio": ratio}}, {"train": {"shift": 0.0, "ratio": 1.0}}, {}]
    found = SimpleNamespace(causes=[SimpleNamespace(check=name) for name in causes], layers=layers)
    assert passes(found) is over_soon


# --- nothing changes --------------------------------------------------------------------------------------------------


def fit(watched: bool, kind: str) -> dict[str, Any]:
    """Train with dropout, a shuffling loader and evaluation samples; return all that training leaves behind."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    x, y = (torch.cat(parts) for parts in zip(*data(0), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    held_out = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(1))
    model: nn.Module = Small(dropout=0.3)
    for layer in norms(model):
        layer.momentum = 0.001  # so that it is diagnosed and announced too
    trained = torch.compile(model, backend="eager") if kind == "compiled" else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    monitor = Monitor(trained, held_out, every=5) if watched else None
    losses = []
    for _ in range(4):
        for batch in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
                loss = nn.functional.cross_entropy(trained(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            losses.append(loss.item() + random.random() + np.random.rand())  # noqa: NPY002
            if monitor is not None:
                monitor.step(batch)
    if monitor is not None:
        assert monitor.announcement is not None, str(monitor)
    states = [torch.get_rng_state(), torch.tensor(held_out.generator.get_state())]
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return {
        "losses": losses,
        "tensors": [*model.state_dict().values(), *(p.grad for p in model.parameters()), *moments, *states],
        "modes": [module.training for module in model.modules()],
        "random": (random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "autocast", pytest.param("compiled", marks=pytest.mark.slow)])
def test_no_number_of_the_training_changes_to_the_bit(kind: str) -> None:
    """Losses, weights, buffers, gradients, moments of Adam, modes and every random state."""
    alone, watched = fit(False, kind), fit(True, kind)
    assert all(torch.equal(a, b) for a, b in zip(alone.pop("tensors"), watched.pop("tensors"), strict=True))
    assert alone == watched


def test_hooks_of_the_user_see_no_pass_of_the_monitor() -> None:
    """They run once per step."""
    model = small()
    seen: list[int] = []
    model.norm1.register_forward_hook(lambda *_: seen.append(1))
    monitor = Monitor(model, every=5)
    train(model, monitor, 20)
    assert len(seen) == 20
    assert len(monitor.measurements) >= 2


# --- what it cannot do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "batch", "reason"),
    [
        (nn.Sequential(nn.Linear(8, 3), nn.LayerNorm(3)), None, "no layer with statistics of batches"),
        (small(), (torch.zeros(64, 5), torch.zeros(64, dtype=torch.long)), "no call of the model works"),
        (nn.Sequential(nn.Linear(8, 4), nn.LazyBatchNorm1d()), None, "lazy layers have seen no batch yet"),
    ],
)
def test_an_error_ends_the_monitoring_and_not_the_training(model: nn.Module, batch: Any, reason: str) -> None:
    """With its reason, once."""
    monitor = Monitor(model, every=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(8):
            monitor.step(batch or data(0)[0])
    assert reason in monitor.off
    assert len(caught) == ("no layer" not in reason)
    assert reason in str(monitor)


def test_a_model_divided_among_ranks_is_left_alone() -> None:
    """A forward pass on one rank would wait for the others."""
    model = small()
    model.first.weight.ds_id = 0  # as DeepSpeed marks what it divides
    monitor = Monitor(model, every=1)
    with pytest.warns(NormalizationWarning, match="divided among ranks"):
        monitor.step(data(0)[0])
    assert monitor.step(data(0)[0]) is None


@pytest.mark.parametrize(("arguments", "words"), [({"share": 0.0}, "share 0 is invalid"), ({"every": 0}, "every 0")])
def test_settings_out_of_range_are_rejected(arguments: dict[str, Any], words: str) -> None:
    """In one line."""
    with pytest.raises(ValueError, match=words):
        Monitor(small(), **arguments)


def test_measurements_wait_until_their_share_of_the_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 10 ms on this clock, and a measurement nothing, so its cost is set by hand."""
    now = [0.0]
    monkeypatch.setattr("pipeline.normdoctor.budget.time.perf_counter", lambda: now[0])
    model = small().train()
    for layer in norms(model):
        layer.eval()  # frozen: no gap, which would be looked at again
    monitor = Monitor(model)
    measured = []
    for step in range(1, 3000):
        now[0] += 0.01
        own = monitor.seconds
        if monitor.step(data(0)[0]):
            measured.append(step)
            monitor._budget.own += 0.1
            now[0] += 0.1
        assert own <= 0.02 * max(now[0], 600 * 0.01) + 0.1
    assert measured[0] == 103
    assert measured[1:] == [107, 1005, 1505, 2004, 2504]


@pytest.mark.parametrize("pursued", [False, True])
def test_a_budget_holds_from_the_steps_on_that_a_training_counts_as(
    pursued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is measured when it is allowed; a hint brings measurements forward, and never adds to the share."""
    now, budget, made = [0.0], Budget(share=0.02), []
    monkeypatch.setattr("pipeline.normdoctor.budget.time.perf_counter", lambda: now[0])
    for step in range(1, 4000):
        now[0] += 0.1
        if budget.allows_measurement(step, pursued):
            made.append(step)
            now[0], budget.own, budget.measurement = now[0] + 0.4, budget.own + 0.4, 0.4
        assert budget.own <= 0.02 * max(0.1 * step, 0.1 * (1500 if pursued else 600)) + 1e-9
    assert len(made) == 19
    assert sum(step <= 200 for step in made) == (7 if pursued else 3)
    assert not budget.allows_diagnosis(4000)


def test_what_only_lags_is_not_diagnosed_at_once() -> None:
    """Statistics near the samples' may be wrong for a moment; others, an average's and an instance norm's are not."""
    for model, expected in ((trained(Small(), data(0)), True), (small(), False)):
        watched = Watched(model, None, None)
        watched.measure(data(1)[:4], [])
        assert watched.only_lags(data(1)[:4]) is expected
    watched = Watched(AveragedModel(trained(Small(), data(0))), None, None)
    watched.measure(data(1)[:4], [])
    assert not watched.only_lags(data(1)[:4])
    watched = Watched(
        nn.Sequential(nn.InstanceNorm1d(8, track_running_stats=True), nn.Flatten(), nn.Linear(64, 3)), None, None
    )
    batches = [(torch.randn(16, 8, 8), torch.randint(3, (16,))) for _ in range(4)]
    watched.measure(batches, [])
    assert not watched.only_lags(batches)


@pytest.mark.slow
def test_two_ranks_neither_wait_nor_differ(tmp_path: Path) -> None:
    """DDP and SyncBatchNorm's layers on gloo, rank 0 measuring; weights equal those without the monitor."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.replace("STORE", str(tmp_path)))
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "announced on rank 0 alone" in done.stdout


RANKS = """
import sys, warnings
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from pipeline.normdoctor import Monitor
from tests.pipeline.normdoctor.planted import Small, data, norms

def work(rank, watched):
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://STORE/store{watched}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Small(dropout=0.2)
    for layer in norms(model):
        layer.momentum = 0.001
    ddp = DDP(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(ddp, every=5)
    for step in range(60):
        x, y = data(rank)[step % 16]
        optimizer.zero_grad()
        nn.functional.cross_entropy(ddp(x), y).backward()
        optimizer.step()
        if watched:
            monitor.step((x, y))
    if watched and rank == 0:
        assert monitor.announcement is not None
        print("announced on rank 0 alone")
    elif watched:
        assert monitor.off == "rank 0 measures"
    if rank == 0:
        torch.save(model.state_dict(), f"STORE/{watched}.pt")
    dist.destroy_process_group()

if __name__ == "__main__":
    for watched in (0, 1):
        mp.spawn(work, (watched,), nprocs=2)
    a, b = (torch.load(f"STORE/{watched}.pt", weights_only=True) for watched in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)
"""

"""doctor: what it says of planted causes and of healthy models, and that it changes nothing."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.doctor import diagnose
from pipeline.doctor.checks import CHECKS
from pipeline.doctor.remedies import REMEDIES


class TwoViews(nn.Module):
    """A model that is not ours: one trunk called on two inputs of different distributions (or on both at once)."""

    def __init__(self, fold: bool, momentum: float = 0.1) -> None:
        super().__init__()
        self.fold = fold
        self.linear = nn.Linear(8, 32)
        self.norm = nn.BatchNorm1d(32, momentum=momentum)
        self.out = nn.Linear(32, 3)

    def forward(self, x_N28: Tensor) -> Tensor:
        """Logits (N, 3)."""
        if self.fold:
            both = torch.relu(self.norm(self.linear(x_N28.flatten(0, 1)))).unflatten(0, x_N28.shape[:2])
            return self.out(both.amax(1))
        views = [torch.relu(self.norm(self.linear(x_N28[:, view]))) for view in range(2)]
        return self.out(torch.stack(views).amax(0))


def batches(seed: int, shift: float, count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Three classes; the second view is shifted and ten times smaller."""
    draw = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        y = torch.randint(3, (64,), generator=draw)
        first = torch.randn(64, 8, generator=draw) * 0.5
        first[torch.arange(64), y] += 0.8
        second = shift + 0.05 * torch.randn(64, 8, generator=draw)
        result.append((torch.stack([first, second], 1), y))
    return result


def trained(model: nn.Module, data: list[tuple[Tensor, Tensor]], steps: int = 300) -> nn.Module:
    """Adam on the batches in turn."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for step in range(steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


TRAIN, HELD_OUT = batches(0, 8.0), batches(1, 8.0)


@pytest.fixture(scope="module")
def looped() -> nn.Module:
    """The planted cause."""
    torch.manual_seed(0)
    return trained(TwoViews(fold=False), TRAIN)


def test_reuse_is_named_proven_and_explains_the_gap(looped: nn.Module) -> None:
    """Calls counted, gap recovered by statistics a call site, more than by one shared set."""
    diagnosis = diagnose(looped, TRAIN, HELD_OUT)
    assert [cause.check for cause in diagnosis.causes] == ["reuse"]
    assert diagnosis.calls == {"norm": 2}
    assert diagnosis.causes[0].recovered >= 0.8
    assert diagnosis.causes[0].after > diagnosis.causes[0].before + 0.1
    assert diagnosis.recalibration["per_call"]["A"] > diagnosis.recalibration["joint"]["A"] + 0.1
    assert diagnosis.unexplained < 0.2


def test_a_healthy_model_gets_no_cause() -> None:
    """The same data, folded: nothing is named."""
    torch.manual_seed(0)
    diagnosis = diagnose(trained(TwoViews(fold=True), TRAIN), TRAIN, HELD_OUT)
    assert diagnosis.causes == []
    assert "not normalization" in diagnosis.verdict


def test_a_reused_layer_on_one_distribution_is_not_blamed() -> None:
    """Reuse alone is harmless: the check needs different distributions, the cause a recovered gap."""
    same = [(x[:, :1].expand(-1, 2, -1).contiguous(), y) for x, y in TRAIN]
    torch.manual_seed(0)
    assert diagnose(trained(TwoViews(fold=False), same), same).causes == []


def test_stale_statistics_are_named_and_joint_recalibration_recovers() -> None:
    """Momentum 0.001 and 300 steps: the buffers still hold their initial values for the most part."""
    shifted = [(x + 5, y) for x, y in TRAIN]
    torch.manual_seed(0)
    diagnosis = diagnose(trained(TwoViews(fold=True, momentum=0.001), shifted), shifted)
    assert [cause.check for cause in diagnosis.causes] == ["stale"]
    assert diagnosis.causes[0].recovered >= 0.8


def test_untrained_buffers_are_named_before_staleness() -> None:
    """Buffers that were reset after training (a checkpoint that lost them)."""
    torch.manual_seed(0)
    model = trained(TwoViews(fold=True), [(x + 5, y) for x, y in TRAIN])
    model.norm.reset_running_stats()
    diagnosis = diagnose(model, [(x + 5, y) for x, y in TRAIN])
    assert [cause.check for cause in diagnosis.causes] == ["buffers"]


def test_a_model_handed_over_in_training_mode_is_told(looped: nn.Module) -> None:
    """The verdict says so."""
    assert "training mode" in diagnose(copy.deepcopy(looped).train(), TRAIN).verdict


def test_the_model_its_mode_and_the_random_state_stay_as_they_were(looped: nn.Module) -> None:
    """Parameters, buffers, hooks, mode, RNG."""
    before, rng = copy.deepcopy(looped.state_dict()), torch.get_rng_state()
    diagnose(looped, TRAIN, HELD_OUT)
    assert all(torch.equal(value, before[name]) for name, value in looped.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not looped.training
    assert not looped.norm._forward_hooks


def test_a_model_without_batch_norm_is_told_so() -> None:
    """No layers, no causes."""
    diagnosis = diagnose(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), TRAIN)
    assert diagnosis.causes == []
    assert "no batch norm" in diagnosis.verdict


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_is_documented(check: str) -> None:
    """A docstring that says what it sees."""
    assert CHECKS[check].__doc__


@pytest.mark.parametrize("remedy", REMEDIES)
def test_every_remedy_has_advice(remedy: str) -> None:
    """What to do in training."""
    assert REMEDIES[remedy].advice


@pytest.mark.parametrize(("run", "causes"), [("bn-loop", ["reuse"]), ("bn-masked", [])])
def test_the_command_on_a_run(runs: Path, run: str, causes: list[str]) -> None:
    """The question's network: the loop is blamed, the masked twin is not."""
    command = [sys.executable, "-m", "pipeline.doctor", str(runs / run), "--split", "test"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    diagnosis = json.loads((runs / run / "doctor.json").read_text())
    assert [cause["check"] for cause in diagnosis["causes"]] == causes
    assert diagnosis["judged"] == "test"
    assert set(diagnosis) >= {"verdict", "accuracies", "gap", "causes", "unexplained"}


def test_the_command_names_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """Exit 2 and the remedy."""
    command = [sys.executable, "-m", "pipeline.doctor", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "is not a run folder" in result.stderr

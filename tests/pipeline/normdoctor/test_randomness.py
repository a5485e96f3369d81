"""randomness: dropout of any kind in front of a batch norm, and outputs that are random in eval mode."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.bench import Bench
from pipeline.normdoctor.randomness import random_in_eval, with_dropout
from pipeline.normdoctor.samples import take
from tests.pipeline.normdoctor.planted import Small, data, refreshed, trained

TRAIN, HELD_OUT = data(0), data(1)


class Dropping(Small):
    """Dropout by a function: none, one that follows the mode, one that does not, or one behind the last norm."""

    how = "none"

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        h = torch.relu(self.norm1(self.first(x)))
        if self.how == "negated" and self.training:
            h = 0.1 * h
        if self.how in ("functional", "always", "made in forward"):
            h = (
                nn.Dropout(0.7)(h)
                if self.how == "made in forward"
                else F.dropout(h, 0.7, self.training or self.how == "always")
            )
        h = torch.relu(self.norm2(self.second(h)))
        return self.out(F.dropout(h, 0.7, self.training) if self.how == "last" else h)


def dropping(how: str, base: nn.Module) -> Dropping:
    """A network with another's weights."""
    model = Dropping()
    model.load_state_dict(base.state_dict())
    model.how = how
    return model


@pytest.fixture(scope="module")
def fine() -> nn.Module:
    """A healthy network."""
    torch.manual_seed(0)
    return trained(Small(), TRAIN)


def bench(model: nn.Module) -> Bench:
    """The model in eval mode on its training samples."""
    return Bench(model.eval(), take(TRAIN), None, lambda net, b: net(b[0]), lambda o, b: o.argmax(1) == b[1])


@pytest.mark.parametrize(("how", "reaches"), [("none", []), ("functional", ["norm2"]), ("last", []), ("negated", [])])
def test_dropout_is_seen_where_it_reaches_a_norm(fine: nn.Module, how: str, reaches: list[str]) -> None:
    """A function in front of the second norm; behind the last it does not matter, and what is not random is not it."""
    patient = bench(dropping(how, fine))
    seen = with_dropout(patient)
    assert ([site[0] for site in seen if site[0] == "norm2"] == ["norm2"]) is bool(reaches)
    assert not any(module.training for module in patient.model.modules())


def test_functional_dropout_in_front_of_a_norm_is_found(fine: nn.Module) -> None:
    """As with a module; statistics were taken with it."""
    diagnosis = diagnose(refreshed(dropping("functional", fine), TRAIN * 3, 0.05), TRAIN, HELD_OUT)
    assert diagnosis.checks["dropout"].startswith("dropout in front of norm2")


class Crop(Small):
    """Gives a dict in training mode, as detectors give losses."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        if self.training:
            raise ValueError("targets are needed in training mode")
        return super().forward(x)


def test_a_model_that_rejects_the_batch_in_training_mode_is_measured_by_its_dropout_modules(fine: nn.Module) -> None:
    """They alone are switched on."""
    model = Crop(dropout=0.7)
    model.load_state_dict(fine.state_dict())
    assert ("norm2", 0) in with_dropout(bench(model))


@pytest.mark.parametrize("how", ["none", "functional", "always", "made in forward"])
def test_outputs_that_are_random_in_eval_mode_are_reported(fine: nn.Module, how: str) -> None:
    """Dropout that no mode reaches; none where it follows the mode."""
    found = random_in_eval(bench(dropping(how, fine)))
    assert bool(found) is (how in ("always", "made in forward"))
    if found:
        assert "of the first choices change" in found
        assert found.endswith("first in the model's own forward")


def test_the_module_that_is_random_is_named(fine: nn.Module) -> None:
    """The innermost."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), AlwaysOn()), nn.Linear(8, 3))
    assert random_in_eval(bench(model)).endswith("first in 1.1")


class AlwaysOn(nn.Module):
    """Dropout in any mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x with half of it dropped."""
        return F.dropout(x, 0.5, True)


def test_a_diagnosis_says_that_outputs_are_random(fine: nn.Module) -> None:
    """Beside the verdict on the norms; with and without evaluation samples, and never on a healthy network."""
    model = dropping("made in forward", fine)
    for held_out in (HELD_OUT, None):
        diagnosis = diagnose(model, TRAIN, held_out)
        assert "random" in diagnosis.named
        assert "Evaluation (random): outputs are random in eval mode" in diagnosis.verdict
    assert "random" not in diagnose(fine, TRAIN, HELD_OUT).named

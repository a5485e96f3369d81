"""optim.py: rates are pure functions of progress; decay reaches what it should; averages take the buffers along."""

import math

import pytest
import torch
from torch import nn

from pipeline import optim
from pipeline.config import from_dict
from pipeline.network import build
from pipeline.norms import BatchNorm
from pipeline.optim import OPTIMIZERS, SCHEDULES, OptimConfig
from pipeline.run_folder import Metadata


def network() -> nn.Module:
    """A weight, a bias, a norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), BatchNorm(8, 0.1, 1e-5))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_rate_starts_at_lr_and_never_rises(schedule: str) -> None:
    """Over a run of 20 epochs, without warm-up."""
    rates = [optim.rate(OptimConfig(lr=0.1, schedule=schedule), t / 10, 20) for t in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates, rates[1:], strict=False))


def test_rates_by_hand() -> None:
    """Half-way of a cosine, both drops of a step, ten epochs of an exponential."""
    assert optim.rate(OptimConfig(lr=1.0, schedule="cosine"), 10, 20) == pytest.approx(0.5)
    step = OptimConfig(lr=1.0, schedule="step", steps=(0.5, 0.75))
    assert [optim.rate(step, t, 20) for t in (9.9, 10, 15)] == pytest.approx([1.0, 0.1, 0.01])
    assert optim.rate(OptimConfig(lr=1.0, schedule="exp", decay=0.9), 10, 20) == pytest.approx(0.9**10)


def test_warm_up_rises_to_the_rate() -> None:
    """Linear over two epochs."""
    config = OptimConfig(lr=0.1, warmup=2.0)
    assert [optim.rate(config, t, 20) for t in (0.5, 1.0, 2.0)] == pytest.approx([0.025, 0.05, 0.1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    """Twenty steps on fixed data."""
    model = network()
    chosen = optim.optimizer(model, OptimConfig(name=name, lr=0.05))
    x, y = torch.randn(32, 4), torch.randn(32, 8)
    losses = []
    for _ in range(20):
        loss = nn.functional.mse_loss(model(x), y)
        losses.append(loss.item())
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("named", "decayed"), [(False, 1), (True, 3)])
def test_decay_reaches_matrices_and_norms_only_when_named(named: bool, decayed: int) -> None:
    """The layer's bias never."""
    model = network()
    with_decay, without = optim.optimizer(model, OptimConfig(weight_decay=0.1), decay_norms=named).param_groups
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.1, 0.0)
    assert len(with_decay["params"]) == decayed
    assert any(p is model[0].bias for p in without["params"])


def test_an_average_takes_the_norms_buffers_along() -> None:
    """Weights and running statistics follow the same average; without buffers evaluation would mix two networks."""
    model = network()
    average = optim.averaged(model, OptimConfig(ema=0.9))
    assert average is not None
    before = {name: x.clone() for name, x in model.state_dict().items()}
    average.update_parameters(model)
    model.train()(3 + torch.randn(64, 4))
    with torch.no_grad():
        model[0].weight += 1
    average.update_parameters(model)
    for name in ("0.weight", "1.running_mean"):
        expected = 0.9 * before[name] + 0.1 * model.state_dict()[name]
        torch.testing.assert_close(average.module.state_dict()[name], expected)
    assert optim.averaged(model, OptimConfig()) is None


def test_an_average_counts_the_networks_updates() -> None:
    """The doctor reads how many there were; a mean of counts lags behind."""
    model = network().train()
    average = optim.averaged(model, OptimConfig(ema=0.9))
    assert average is not None
    for _ in range(20):
        model(torch.randn(8, 4))
        optim.follow(average, model)
    assert average.module.state_dict()["1.num_batches_tracked"] == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "adam"), ("schedule", "linear"), ("lr", 0.0), ("ema", 1.0), ("warmup", -1.0), ("label_smoothing", 1.5)],
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: object) -> None:
    """One line."""
    with pytest.raises(ValueError, match=f"optim.{field.replace('_', '-')} "):
        OptimConfig(**{field: value})


def test_cosine_ends_at_zero() -> None:
    """Every comparison is at the end of its schedule."""
    assert math.isclose(optim.rate(OptimConfig(schedule="cosine"), 20, 20), 0, abs_tol=1e-12)


def one_weight() -> tuple[nn.Linear, torch.Tensor]:
    """A matrix of one element, and what its gradient is taken of."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    return model, torch.ones(1, 1)


def test_two_steps_of_sgd_by_hand() -> None:
    """Nesterov momentum 0.9 with L2 decay: the velocity is looked ahead along."""
    model, x = one_weight()
    chosen = optim.optimizer(model, OptimConfig(name="sgd", lr=0.1, weight_decay=0.5))
    weight, velocity = 2.0, 0.0
    for gradient in (1.0, 3.0):
        chosen.zero_grad()
        (gradient * model(x)).sum().backward()
        chosen.step()
        g = gradient + 0.5 * weight
        velocity = g if velocity == 0 else 0.9 * velocity + g
        weight -= 0.1 * (g + 0.9 * velocity)
        assert model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_a_step_of_adamw_by_hand() -> None:
    """The first step is lr in the direction of the gradient; the decay is decoupled from it."""
    model, x = one_weight()
    chosen = optim.optimizer(model, OptimConfig(name="adamw", lr=0.1, weight_decay=0.5))
    (3 * model(x)).sum().backward()
    chosen.step()
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, rel=1e-6)


def test_gradients_are_clipped_all_together() -> None:
    """To the norm that is asked for; 0 leaves them."""
    for largest, expected in ((0.5, 0.5), (0.0, 5.0), (10.0, 5.0)):
        model = nn.Linear(2, 1, bias=False)
        model.weight.grad = torch.tensor([[3.0, 4.0]])
        optim.clip_gradients(model, OptimConfig(clip_norm=largest), adaptive=0.01)
        assert model.weight.grad.norm().item() == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_of_every_group_is_set() -> None:
    """With and without weight decay."""
    chosen = optim.optimizer(network(), OptimConfig(weight_decay=0.1))
    optim.set_rate(chosen, 0.25)
    assert [group["lr"] for group in chosen.param_groups] == [0.25, 0.25]


def test_class_weights_make_classes_equal() -> None:
    """8 and 2 clips: the sums of their weights are equal; sqrt lies between; the mean over clips is 1."""
    label_N = torch.tensor([0] * 8 + [2] * 2)
    assert optim.class_weights(OptimConfig(), label_N, 3) is None
    even = optim.class_weights(OptimConfig(class_weights="balanced"), label_N, 3)
    assert even is not None
    assert even.tolist() == pytest.approx([10 / 16, 1.0, 10 / 4])
    half = optim.class_weights(OptimConfig(class_weights="sqrt"), label_N, 3)
    assert half is not None
    assert (half[2] / half[0]).item() == pytest.approx(2.0)
    assert half[label_N].mean().item() == pytest.approx(1.0)


def test_layers_have_decaying_rates() -> None:
    """The last layer the whole rate, each one before it `layer_decay` of the next; without it, the two old groups."""
    config = from_dict({"data": "x", "out": "y", "model": {"width": 0.25}})
    facts = Metadata("d", {}, [f"j{v}" for v in range(10)], (), 30.0, ["a", "b"], "")
    model = build(config, facts, torch.device("cpu"))
    chosen = optim.optimizer(model, OptimConfig(lr=0.1, layer_decay=0.5))
    optim.set_rate(chosen, 0.2)
    rate = {id(p): group["lr"] for group in chosen.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(rate) == len(named)
    expected = {"classify.bias": 0.2, "hidden.weight": 0.1, "norms.2.0.weight": 0.05, "convolutions.0.weight": 0.0125}
    assert {name: rate[id(named[name])] for name in expected} == pytest.approx(expected)
    assert len(optim.parameter_groups(model, OptimConfig())) == 2

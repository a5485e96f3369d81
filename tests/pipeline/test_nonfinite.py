"""nonfinite.py: once a gradient is non-finite no step is taken, and the clips of the batch are named."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import optim
from pipeline.nonfinite import GradientCheck, NonFiniteGuard, NonFiniteLoss
from pipeline.optim import OPTIMIZERS, OptimConfig

NAMES = np.array([f"clip{i}" for i in range(8)])


def steps(kind: str, sizes: list[float], told: bool = True) -> tuple[list[Tensor], list[str]]:
    """The weights after each step on a batch of two clips whose gradients are `sizes`; the clips that were named."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = optim.optimizer(model, OptimConfig(name=kind))
    gradients = GradientCheck(model, optimizer, torch.device("cpu"))
    guard = NonFiniteGuard(1, gradients.broken, NAMES)
    weights, named = [], []
    for i, size in enumerate(sizes):
        optimizer.zero_grad()
        (size * model(torch.ones(2, 1))).sum().backward()
        gradients.check()
        try:
            guard.see(torch.tensor([2 * i, 2 * i + 1]))
        except NonFiniteLoss as error:
            named += error.clips
        if not told:
            optimizer.found_inf = None
        optimizer.step()
        weights.append(model.weight.detach().clone())
    return weights, named


@pytest.mark.parametrize("size", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_from_the_bad_batch_on_no_step_is_taken(kind: str, size: float) -> None:
    """The weights stay those after the last finite batch, because the optimizer skips the steps after it."""
    weights, named = steps(kind, [1.0, size, 1.0])
    assert weights[0] == weights[1] == weights[2]
    assert named == ["clip2", "clip3"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_without_the_guard_a_bad_batch_spoils_the_weights(kind: str) -> None:
    """Negative control: the optimizer is not told."""
    assert not torch.isfinite(steps(kind, [1.0, float("nan")], told=False)[0][-1])


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_finite_gradients_step_as_if_nobody_looked(kind: str) -> None:
    """To the bit, moments' counts included."""
    sizes = [1.0, -3.0, 0.5]
    torch.manual_seed(0)
    watched, named = steps(kind, sizes)
    torch.manual_seed(0)
    alone, _ = steps(kind, sizes, told=False)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(watched, alone, strict=True))
    assert not named


def test_the_last_batch_of_an_epoch_is_told_at_its_end() -> None:
    """`read` asks for what no further batch would."""
    model = nn.Linear(1, 1)
    gradients = GradientCheck(model, optim.optimizer(model, OptimConfig()), torch.device("cpu"))
    guard = NonFiniteGuard(7, gradients.broken, NAMES)
    guard.read()
    (float("nan") * model(torch.ones(1, 1))).sum().backward()
    gradients.check()
    guard.see(torch.tensor([4]))
    with pytest.raises(
        NonFiniteLoss, match="epoch 7: the loss is not finite on clips clip4; no step was taken"
    ) as raised:
        guard.read()
    assert raised.value.clips == ["clip4"]

"""effects and memory: layers of any class are found by what they do, and keep what they add under other statistics."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.normdoctor.collector import Collector
from pipeline.normdoctor.effects import examined, note_layers
from pipeline.normdoctor.layers import Layer
from pipeline.normdoctor.memory import memory_of
from pipeline.normdoctor.moments import Moments, moments
from pipeline.normdoctor.sites import batch_norms, output_by, statistics

X = (
    torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2
    + torch.tensor([1.0, -3.0, 0.5])[:, None, None]
)


class Activated(nn.BatchNorm2d):
    """A batch norm with dropout and an activation in its forward."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.5), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, drop, activate."""
        return self.act(self.drop(super().forward(x)))


class Keras(nn.Module):
    """Hand-written, channels last, with a deviation for a variance and the other convention of momentum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("moving_average", torch.zeros(1, 1, 1, channels))
        self.register_buffer("moving_sd", torch.ones(1, 1, 1, channels))
        self.momentum = 0.9

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, H, W, C)."""
        if not self.training:
            return (x - self.moving_average) / self.moving_sd
        mean, sd = x.mean((0, 1, 2), keepdim=True), x.std((0, 1, 2), keepdim=True)
        with torch.no_grad():
            self.moving_average.mul_(self.momentum).add_((1 - self.momentum) * mean)
            self.moving_sd.mul_(self.momentum).add_((1 - self.momentum) * sd)
        return (x - mean) / sd


class Functional(nn.Module):
    """F.batch_norm over parameters without gradient."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.s2 = nn.Parameter(torch.ones(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...)."""
        return F.batch_norm(x, self.mu, self.s2, training=self.training, momentum=0.2)


class VarianceOnly(nn.Module):
    """Divides by the deviation, and does not centre."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x (B, C, H, W)."""
        variance = x.var((0, 2, 3)) if self.training else self.running_var
        if self.training:
            self.running_var.lerp_(variance.detach(), 0.1)
        return x / variance[:, None, None].sqrt()


class Ghost(nn.BatchNorm2d):
    """Statistics over parts of four rows: more than the batch's moments."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize part by part in training."""
        parts = x.split(4) if self.training else [x]
        return torch.cat([super(Ghost, self).forward(part) for part in parts])


class Frozen(nn.BatchNorm2d):
    """Training uses the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, H, W)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class Watching(nn.Module):
    """Follows the input's statistics and does not use them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        if self.training:
            self.mean.lerp_(x.mean((0, 2, 3)), 0.1)
            self.var.lerp_(x.var((0, 2, 3)), 0.1)
        return x


class Codebook(nn.Module):
    """Follows something that is no mean and no variance, and uses it in eval mode alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("usage", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x, shifted in eval mode."""
        if self.training:
            self.usage.mul_(0.9).add_(0.1 * x.amax((0, 2, 3)))
            return x
        return x + self.usage[:, None, None]


def noted(layer: nn.Module, x: Tensor = X) -> nn.Module:
    """The layer as `note_layers` leaves it, with the statistics of one training pass."""
    model = nn.Sequential(layer).train()
    model(x)
    model.eval()
    note_layers(model, lambda: model(x))
    return layer


FOUND: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "a subclass with an activation and dropout": (lambda: Activated(3), X),
    "hand-written, channels last": (lambda: Keras(3), X.movedim(1, -1)),
    "F.batch_norm over parameters": (lambda: Functional(3), X),
    "over rows (M, C)": (lambda: Functional(3), X.movedim(1, -1).reshape(-1, 3)),
    "variance alone": (lambda: VarianceOnly(3), X),
    "ghost": (lambda: Ghost(3), X),
    "instance norm": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), X),
}


@pytest.mark.parametrize("kind", FOUND)
def test_a_layer_is_found_by_its_effect_and_answers_as_in_training(kind: str) -> None:
    """By the batch: its output in training mode, dropout off. By the running statistics: that in eval mode."""
    make, x = FOUND[kind]
    layer = noted(make(), x)
    assert list(batch_norms(nn.Sequential(layer))) == ["0"]
    twin = copy.deepcopy(layer)
    twin.training = True  # itself, not its dropout
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(output_by(layer, x, None), twin(x), rtol=1e-4, atol=1e-4)
    seen = Layer.of(layer).running
    assert seen is not None
    torch.testing.assert_close(output_by(layer, x, (seen.mean_C, seen.variance_C)), layer(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output_by(layer, x, None), layer(x), atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert not layer.training


@pytest.mark.parametrize("make", [Frozen, Watching, Codebook, lambda channels: nn.BatchNorm2d(channels)])
def test_a_layer_that_does_not_follow_the_batch_is_left_out(make: Callable[[int], nn.Module]) -> None:
    """Frozen in training, watching without use, following something else; torch's own is the positive control."""
    layer = noted(make(3))
    assert (list(batch_norms(nn.Sequential(layer))) == ["0"]) is (type(layer) is nn.BatchNorm2d)


def test_what_is_noted_is_what_the_layer_keeps() -> None:
    """Names, form, axis, and the momentum of torch's convention."""
    memory = memory_of(noted(Keras(3), X.movedim(1, -1)))
    assert memory is not None
    assert (memory.mean, memory.spread, memory.form, memory.axis) == ("moving_average", "moving_sd", "deviation", 3)
    assert memory.momentum == pytest.approx(0.1, abs=1e-5)
    alone = memory_of(noted(VarianceOnly(3)))
    assert alone is not None
    assert (alone.mean, alone.spread, alone.by_moments_alone) == (None, "running_var", False)  # unbiased
    ghost = memory_of(noted(Ghost(3)))
    assert ghost is not None
    assert not ghost.by_moments_alone


def test_given_statistics_reach_what_the_layer_adds() -> None:
    """SiLU of (x - 1) / 2, per call."""
    model = nn.Sequential(Activated(3)).eval()
    with torch.no_grad(), statistics(model, lambda site, x: (torch.ones(3), torch.full((3,), 4.0))):
        torch.testing.assert_close(model(X), F.silu((X - 1) / (4 + 1e-5) ** 0.5))
    with statistics(model, lambda site, x: None):
        torch.testing.assert_close(model[0](x=X), model(X))


def test_nodes_of_graphs_are_taken_as_one_instance() -> None:
    """(N, C) has no value of its own per channel and row; an instance norm of graphs takes it."""
    x = X[:, :, 0, 0]
    found, every = Moments.of_instances(x), Moments.of(x)
    assert torch.equal(found.variance_C, every.variance_C)
    assert found.averaged


def test_statistics_of_instances_are_the_mean_of_theirs() -> None:
    """As the running statistics of torch's instance norm learn them: means that differ add nothing to the variance."""
    layer = nn.InstanceNorm2d(3, track_running_stats=True, momentum=1.0)
    layer(X)
    model = nn.Sequential(layer).eval()
    collector = Collector(model)
    with torch.no_grad(), statistics(model, collector):
        for x in X.split(4):
            model(x)
    seen = collector.seen.population["0", 0]
    torch.testing.assert_close(seen.mean_C.float(), layer.running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.variance_C.float() * 25 / 24, layer.running_var, rtol=1e-4, atol=1e-5)
    total = Moments.of(X[:4]).merge(Moments.of(X[4:]))
    assert total.variance_C[0] > seen.variance_C[0]
    torch.testing.assert_close(total.variance_C.float(), moments(X)[1])


def test_a_forward_that_differentiates_goes_through_the_statistics_of_the_batch() -> None:
    """Gradients are those of training mode, twice; what a collector keeps holds no graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Activated1d(4)).eval()
    x = torch.randn(8, 3)
    loss = lambda y: (y * x.sum(1, keepdim=True)).square().mean()  # noqa: E731
    twin = copy.deepcopy(model)
    for layer in (twin[1], twin[2]):
        layer.training = True
    (expected,) = torch.autograd.grad(loss(twin(x)), [twin[0].weight])
    collector = Collector(model)
    for _ in range(2):
        with statistics(model, collector):
            (found,) = torch.autograd.grad(loss(model(x)), [model[0].weight])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not any(kept.mean_C.requires_grad for kept in collector.seen.population.values())


class Activated1d(nn.BatchNorm1d):
    """A batch norm with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate x (B, C)."""
        return F.silu(super().forward(x))


class NeverUpdated(nn.Module):
    """A hand-written norm that forgot to update its running statistics."""

    def __init__(self, used: bool = True) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(3))
        self.register_buffer("spread", torch.ones(3))
        self.used = used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize x (B, 3) by the batch in training, by the buffers in evaluation where they are used."""
        if self.training or not self.used:
            return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return (x - self.center) / (self.spread + 1e-5).sqrt()


@pytest.mark.parametrize("used", [True, False])
def test_statistics_that_no_pass_updates_are_found_where_the_output_depends_on_them(used: bool) -> None:
    """By their initial values, and by the effect of others in their place."""
    x = 4 + 3 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    memory = examined(NeverUpdated(used).eval(), (x,), {})
    assert memory is not None
    assert memory.frozen is not used
    if used:
        assert (memory.mean, memory.spread, memory.momentum) == ("center", "spread", 0.0)

"""Batch norm, max-pool and ReLU in one pass are those of torch: outputs, gradients, moments, running statistics."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels import availability, pooled_norm
from pipeline.models import ModelConfig, build_model
from pipeline.models.bodies import SlotNorms
from pipeline.norms import BatchNorm, NormConfig, norm_factory

# Odd numbers of frames and joints leave some without a window; channels are no multiple of a vector's width.
SHAPES = [(6, 32, 64, 25), (5, 48, 7, 12), (3, 7, 3, 5), (2, 3, 2, 2)]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
BONES = tuple((0, joint) for joint in range(1, 25))


def features(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Features with a mean of ten deviations."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.5 + 5).to(dtype)
    return x.to(memory_format=torch.channels_last)


def distance(found: Tensor, exact: Tensor) -> float:
    """Of all numbers together, in units of their size."""
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm().clamp(min=1e-12))


def exactly(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> list[Tensor]:
    """Output and gradients by torch in float64."""
    leaves = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    y = torch.relu(torch.max_pool2d(nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], True, 0.0, 1e-5), 2))
    return [y, *torch.autograd.grad(y, leaves, dy.double())]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_gradients_and_moments_are_those_of_torch_in_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Scales of both signs: where one is negative, a window's maximum comes from its smallest value."""
    x = features(shape, dtype)
    weight = torch.linspace(-1, 1.5, shape[1]).requires_grad_()
    bias = torch.linspace(1, -1, shape[1]).requires_grad_()
    x.requires_grad_()
    y, mean, variance, count = pooled_norm.by_own_moments(x, weight, bias, 1e-5)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = [y, *torch.autograd.grad(y, (x, weight, bias), dy)]
    exact = exactly(x, weight, bias, dy)
    assert [distance(a, b) < ROUNDING[dtype] for a, b in zip(found, exact, strict=True)] == [True] * 4
    assert distance(mean, x.double().mean((0, 2, 3))) < 1e-7
    assert distance(variance, x.double().var((0, 2, 3), unbiased=False)) < 1e-5
    assert count == x.numel() / shape[1]


def test_it_is_nearer_to_the_truth_than_torch_s_own_kernels() -> None:
    """The gradient of the features, for a mean of ten deviations in bf16."""
    x, weight, bias = features((40, 32, 64, 25)).requires_grad_(), torch.ones(32), torch.zeros(32)
    dy = torch.randn(40, 32, 32, 12, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = exactly(x, weight, bias, dy)[1]
    ours = torch.autograd.grad(pooled_norm.by_own_moments(x, weight, bias, 1e-5)[0], x, dy)[0]
    y = torch.relu(torch.max_pool2d(nn.functional.batch_norm(x, None, None, weight, bias, True, 0.0, 1e-5), 2))
    assert distance(ours, exact) <= distance(torch.autograd.grad(y, x, dy)[0], exact)


def test_the_plain_formula_is_what_given_moments_yield() -> None:
    x, weight, bias = features((4, 8, 6, 5), torch.float32), torch.linspace(-1, 1, 8), torch.linspace(0, 1, 8)
    mean, variance = torch.full((8,), 4.5), torch.full((8,), 0.3)
    found = pooled_norm.by_moments(x, weight, bias, mean, variance, 1e-5)
    assert distance(found, pooled_norm.plain(x, weight, bias, mean, variance, 1e-5).double()) < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_vanish(value: float) -> None:
    x = features((2, 4, 4, 4))
    x[0, 1, 3, 3] = value
    y, _, variance, _ = pooled_norm.by_own_moments(x, torch.ones(4), torch.zeros(4), 1e-5)
    assert not variance[1].isfinite()
    assert not y[:, 1].isfinite().any()
    assert y[:, 0].isfinite().all()


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = features((7, 16, 10, 9)).requires_grad_(), torch.ones(16), torch.zeros(16)

    def result() -> list[Tensor]:
        y, mean, variance, _ = pooled_norm.by_own_moments(x, weight, bias, 1e-5)
        return [y, mean, variance, torch.autograd.grad(y, x, torch.ones_like(y))[0]]

    one = result()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(a, b) for a, b in zip(one, result(), strict=True))


def layer_and_plain(persons: str = "masked") -> tuple[SlotNorms, BatchNorm]:
    """A place in the trunk, and a layer of its own with the same parameters."""
    norm = norm_factory(NormConfig(persons=persons))
    return SlotNorms(norm, 8, persons), BatchNorm(8, 0.1, 1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_place_in_the_trunk_pools_in_one_pass_and_keeps_its_running_statistics(training: bool) -> None:
    fused, plain = layer_and_plain()
    x = features((4, 8, 6, 6), torch.float32)
    fused.train(training), plain.train(training)
    with torch.no_grad():
        assert fused[0].pools(x)
        found = fused.pooled(x, 0, (2, 2), nn.ReLU())
        expected = torch.relu(torch.max_pool2d(plain(x), 2))
    assert distance(found, expected.double()) < 3e-6
    for name, buffer in plain.named_buffers():
        assert torch.allclose(fused[0].get_buffer(name), buffer, rtol=1e-6), name


def test_a_watched_layer_a_replaced_forward_and_other_features_keep_torch_s_operations() -> None:
    """Each would otherwise be passed over in silence."""
    layer, x = BatchNorm(8, 0.1, 1e-5), features((4, 8, 6, 6))
    assert layer.pools(x)
    handle = layer.register_forward_hook(lambda *_: None)
    assert not layer.pools(x)
    handle.remove()
    layer.__dict__["forward"] = layer.forward
    assert not layer.pools(x)
    del layer.__dict__["forward"]
    assert not layer.pools(x.contiguous())
    assert not layer.pools(x.double())
    assert not layer.pools(features((4, 8, 1, 6)))
    layer.eval()
    assert not layer.pools(x.requires_grad_())  # evaluation that differentiates
    assert layer.pools(x.detach())


@pytest.mark.parametrize("norm", [{}, {"persons": "loop"}, {"persons": "per_person"}, {"kind": "gn"}], ids=str)
def test_the_question_s_network_has_the_same_loss_and_gradients_without_it(
    norm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        network = build_model(ModelConfig("cnn", dropout=0.0, width=0.25), NormConfig(**norm), 16, 25, 5, BONES)
        network = network.to(memory_format=torch.channels_last)
        x, present = torch.randn(6, 3, 16, 25, 2), torch.ones(6, 2, 16, dtype=torch.bool)
        present[2:, 1] = False
        loss = nn.functional.cross_entropy(network(x, present), torch.arange(6) % 5)
        return [loss, *torch.autograd.grad(loss, list(network.parameters()))]

    found = gradients()
    monkeypatch.setattr(availability, "pools_on_cpu", lambda x: False)
    for a, b in zip(found, gradients(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)

"""norms: every norm of the dictionary against a plain formula, its contract, and statistics over ranks."""

import copy
import importlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from pipeline.models import MODELS, ModelConfig, build_model
from pipeline.models.bodies import PERSONS, masked
from pipeline.normdoctor.moments import moments
from pipeline.normdoctor.sites import batch_norms, output_by
from pipeline.norms import (
    INPUTS,
    NORMS,
    BatchNorm,
    Kind,
    NormConfig,
    clip_gradients,
    norm_factory,
    norm_parameters,
)
from pipeline.norms.normalizer_free import RELU_GAIN, ScaledWeightStandardization
from tests.pipeline.norms import norm_formulas as plain
from tests.pipeline.norms.norm_formulas import FORMULAS
from tests.pipeline.norms.sync_ranks import outcome

RANKS = Path(__file__).with_name("sync_ranks.py")
ROOT = Path(__file__).parents[3]

BATCH_KINDS = [name for name, kind in NORMS.items() if kind.batch_statistics]
CHANNELS = 4


def settings(kind: str, **more: Any) -> dict[str, Any]:
    """The settings that norm_formulas.py is written for."""
    bounds = {"renorm_r": plain.R_MAX, "renorm_d": plain.D_MAX, "renorm_steps": 10}
    return {"kind": kind, "eps": plain.EPS, "groups": plain.GROUPS, "ghost": plain.GHOST} | bounds | more


def fresh(kind: str, channels: int = CHANNELS, **more: Any) -> nn.Module:
    """A layer as it is made."""
    return norm_factory(NormConfig(**settings(kind, **more)))(channels)


def worn(kind: str, updates: int = 100, **more: Any) -> nn.Module:
    """A layer in float64 with random parameters and running statistics, as after many updates."""
    layer, draw = fresh(kind, **more).double(), torch.Generator().manual_seed(3)
    for name, tensor in layer.state_dict().items():
        if name == "num_batches_tracked":
            tensor.fill_(updates)
        else:
            tensor.copy_(0.2 + (0.7 if name == "rho" else 1.0) * torch.rand(tensor.shape, generator=draw))
    return layer


def data(rows: int = 11, shape: tuple[int, ...] = (5, 3)) -> Tensor:
    """Rows of different means and spreads, float64."""
    draw = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, CHANNELS, *shape, generator=draw, dtype=torch.float64)
    scale = torch.linspace(0.5, 2, rows, dtype=torch.float64).reshape(-1, *[1] * (x.dim() - 1))
    return 0.7 + scale * x


def state(layer: nn.Module) -> plain.State:
    """The layer's state for a formula."""
    return {name: tensor.double().numpy().copy() for name, tensor in layer.state_dict().items()}


# The facts that a Kind states.


class Spy:
    """Settings that remember which of them were read."""

    def __init__(self, config: NormConfig) -> None:
        self.config, self.read = config, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.config, name)


@pytest.mark.parametrize("kind", NORMS)
def test_the_settings_of_a_kind_are_those_that_its_constructor_reads(kind: str) -> None:
    """The search space draws a setting only for the kinds that have it. `clip` is read by the training step."""
    spy = Spy(NormConfig(kind=kind, groups=1))
    NORMS[kind].layer(CHANNELS, spy)
    assert spy.read == set(NORMS[kind].settings) - {"clip"}


@pytest.mark.parametrize("kind", NORMS)
def test_batch_and_running_statistics_are_as_stated(kind: str) -> None:
    """Another row changes a row's output exactly if the kind has batch statistics."""
    layer = worn(kind).train()
    together, alone = copy.deepcopy(layer)(data()), layer(data()[:6])
    assert torch.allclose(together[:6], alone, atol=1e-6) is not NORMS[kind].batch_statistics
    assert (getattr(layer, "running_mean", None) is not None) is NORMS[kind].running_statistics
    assert bool(batch_norms(nn.Sequential(layer))) is NORMS[kind].batch_statistics


@pytest.mark.parametrize("kind", NORMS)
def test_centres_is_as_stated(kind: str) -> None:
    """In training a constant per channel has no effect behind a norm that centres, and an effect behind others."""
    torch.manual_seed(0)
    layer = fresh(kind, freeze_after=10).train()
    x, bias_C = torch.randn(8, CHANNELS, 5, 3), torch.tensor([-1.0, 0.5, 2.0, 3.0])
    assert torch.allclose(layer(x), layer(x + bias_C[:, None, None]), atol=1e-3) is NORMS[kind].centres


@pytest.mark.parametrize("kind", NORMS)
def test_an_activation_follows_unless_the_kind_has_one(kind: str) -> None:
    """ReLU of -1 is 0."""
    out = norm_factory(NormConfig(kind=kind)).activation()(torch.tensor([-1.0, 2.0]))
    assert out.tolist() == ([-1, 2] if NORMS[kind].activates else [0, 2])


# Formulas.


def formula(kind: str) -> Callable[[plain.Array, plain.State, bool], plain.Array]:
    """Return the plain formula of a kind; a kind without one skips the comparison, and pytest's summary names it."""
    return FORMULAS.get(kind) or pytest.skip(f"norm_formulas.py has no formula for {kind}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_is_its_formula(kind: str, training: bool) -> None:
    """To 1e-12 in float64, to 1e-5 in float32."""
    layer, x = worn(kind).train(training), data()
    expected = torch.from_numpy(formula(kind)(x.numpy(), state(layer), training))
    single = copy.deepcopy(layer).float()
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(single(x.float()), expected.float(), rtol=1e-5, atol=1e-5)


def timm_layers() -> Any:
    """timm's layers; skips where timm does not import (its torchvision must fit the torch that is installed)."""
    try:
        return importlib.import_module("timm.layers")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import here: {error}")


TIMM: dict[str, Callable[[Any], nn.Module]] = {
    "evonorm_b0": lambda timm: timm.EvoNorm2dB0(CHANNELS, eps=plain.EPS),
    "evonorm_s0": lambda timm: timm.EvoNorm2dS0(CHANNELS, groups=plain.GROUPS, eps=plain.EPS),
    "frn_tlu": lambda timm: timm.FilterResponseNormTlu2d(CHANNELS, eps=plain.EPS),
    "ln": lambda timm: timm.LayerNorm2d(CHANNELS, eps=plain.EPS),
    "gn1": lambda timm: timm.GroupNorm1(CHANNELS, eps=plain.EPS),
    "rms": lambda timm: timm.RmsNorm2d(CHANNELS, eps=plain.EPS),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", TIMM)
def test_a_norm_is_the_one_of_timm(kind: str, training: bool) -> None:
    """With the same parameters and statistics; timm counts moments in float32."""
    ours, theirs = worn(kind).float().train(training), TIMM[kind](timm_layers()).train(training)
    theirs.load_state_dict({name: ours.state_dict()[name] for name in theirs.state_dict()})
    x = data().float()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "theirs"), [("ws_gn", "StdConv2d"), ("nf", "ScaledStdConv2d")])
def test_standardised_weights_are_those_of_timm(kind: str, theirs: str) -> None:
    """timm's gain starts at one too; its gamma is set to ours."""
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    gamma = {"gamma": RELU_GAIN} if kind == "nf" else {}
    other = getattr(timm_layers(), theirs)(3, 8, 3, padding=1, bias=False, **gamma)
    other.weight.data.copy_(convolution.weight)
    ours = norm_factory(NormConfig(**settings(kind))).parametrize(convolution)
    x = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), other(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_an_average_of_1e4_does_not_drown_the_spread(kind: str) -> None:
    """Float32 against the formula in float64 on the same numbers; E[x^2] - E[x]^2 would be off by more than 1."""
    layer, x = fresh(kind, renorm_steps=0).train(), (1e4 + data()).float()
    layer.num_batches_tracked = torch.tensor(0)
    expected = formula(kind)(x.double().numpy(), state(layer), training=True)
    if kind == "batch_renorm":  # its first update is BatchNorm's
        expected = FORMULAS["bn"](x.double().numpy(), state(layer), training=True)
    error = np.abs(layer(x).double().detach().numpy() - expected).max() / max(1.0, np.abs(expected).max())
    assert error < 5e-3


def test_one_pass_moments_would_fail_the_test_above() -> None:
    """Negative control: the textbook formula in float32 on the same numbers."""
    x = (1e4 + data()).float()
    variance = (x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()).double()
    assert (variance - x.double().var((0, 2, 3), correction=0)).abs().max() > 1
    assert (moments(x)[1].double() - x.double().var((0, 2, 3), correction=0)).abs().max() < 1e-3


def gradients_agree(layer: nn.Module, x: Tensor) -> bool:
    """gradcheck over the input and every parameter, buffers as they were at each call."""
    names = [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    values = [
        parameter.detach().clone().requires_grad_() for parameter in layer.parameters() if parameter.requires_grad
    ]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return functional_call(layer, dict(zip(names, parameters, strict=True)) | buffers, (x,))

    return gradcheck(function, (x.clone().requires_grad_(), *values), fast_mode=True)


@pytest.mark.parametrize("kind", NORMS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    """Over (B, C, T, V) and (B, C), in both modes. batch_renorm at its first update, where r and d are constants."""
    for training, shape in itertools.product((True, False), ((3, 2), ())):
        assert gradients_agree(worn(kind, updates=0).train(training), data(9, shape)), (training, shape)


def test_no_gradient_passes_through_renorms_corrections() -> None:
    """At a later update the gradient is that of the formula with r and d held constant, not of the whole formula."""
    layer, x = worn("batch_renorm").train(), data().requires_grad_()
    r, d = (
        torch.from_numpy(v).reshape(1, -1, 1, 1) for v in plain.renorm_corrections(x.detach().numpy(), state(layer))
    )
    weight, bias = (v.detach().reshape(1, -1, 1, 1) for v in (layer.weight, layer.bias))
    mean = x.mean((0, 2, 3), keepdim=True)
    xhat = (x - mean) / torch.sqrt((x - mean).square().mean((0, 2, 3), keepdim=True) + plain.EPS)
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad((((xhat * r + d) * weight + bias) * w).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad((copy.deepcopy(layer)(x) * w).sum(), x)[0], expected)
    # Negative control: finite differences see r and d move (some channel is within its bounds).
    assert ((r > 1 / plain.R_MAX) & (r < plain.R_MAX)).any()
    with pytest.raises(GradcheckError):
        gradients_agree(layer, x.detach())


@pytest.mark.parametrize("kind", NORMS)
def test_the_content_of_an_absent_body_is_irrelevant(kind: str) -> None:
    """Bodies filled with 1e9 change nothing in `masked`, nor with mask_max if the norm has no batch statistics."""
    x = data(8, (6, 4)).float().unflatten(0, (4, 2)).movedim(1, -1)
    present = torch.tensor([[True, False], [True, True], [False, True], [True, False]])
    filled = torch.where(present[:, None, None, None, :], x, 1e9)

    def features(persons: str, x: Tensor, mask_max: bool) -> Tensor:
        layer = fresh(kind).train()
        return PERSONS[persons](lambda rows, slot: layer(rows), x, present, mask_max)

    for persons in PERSONS:
        apart = persons == "masked" or kind not in BATCH_KINDS
        assert torch.equal(features(persons, x, True), features(persons, filled, True)) is apart
        if persons != "masked":  # negative control: without the mask the padding's features enter the maximum
            assert not torch.equal(features(persons, x, False), features(persons, filled, False))


@pytest.mark.parametrize("kind", NORMS)
def test_a_layer_with_the_same_state_gives_the_same_bits(kind: str) -> None:
    """After a strict load, in evaluation and in the next training step."""
    layer, twin = fresh(kind), fresh(kind)
    for rows in (9, 10, 11):
        layer.train()(data(rows).float())
    twin.load_state_dict(layer.state_dict(), strict=True)
    x = data(12).float()
    assert torch.equal(layer.eval()(x), twin.eval()(x))
    assert torch.equal(layer.train()(x), twin.train()(x))
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), twin.buffers(), strict=True))


@pytest.mark.parametrize("kind", NORMS)
def test_training_differs_from_evaluation_only_with_batch_statistics(kind: str) -> None:
    """Then training changes output and buffers; evaluation never changes a buffer."""
    layer = worn(kind).eval()
    before = copy.deepcopy(dict(layer.named_buffers()))
    in_evaluation = layer(data())
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
    assert torch.equal(layer.train()(data()), in_evaluation) is (kind not in BATCH_KINDS)
    changed = any(not torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
    assert changed is (kind in BATCH_KINDS)


RUNNING_KINDS = [name for name, kind in NORMS.items() if kind.running_statistics]


def step_by_hand(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Running mean and unbiased running variance of one training step with momentum 1.

    ghost_bn: the mean over parts of 5 and 6 of 11 rows, weighted by rows.
    """
    parts = x.split([5, 6]) if "ghost" in NORMS[kind].settings else [x]
    share = [len(part) / len(x) for part in parts]
    mean = sum(w * part.mean((0, 2, 3)) for w, part in zip(share, parts, strict=True))
    return mean, sum(w * part.var((0, 2, 3), correction=1) for w, part in zip(share, parts, strict=True))


@pytest.mark.parametrize("kind", RUNNING_KINDS)
def test_one_step_moves_the_running_statistics_to_the_unbiased_ones(kind: str) -> None:
    """With momentum 1 to those of the batch, with momentum 0.25 a quarter of the way; one update is counted."""
    mean, variance = step_by_hand(kind, data(shape=(2, 1)))
    for momentum in (1.0, 0.25):
        layer = worn(kind, updates=0, momentum=momentum, freeze_after=9).train()
        old_mean, old_var = layer.running_mean.clone(), layer.running_var.clone()
        layer(data(shape=(2, 1)))
        torch.testing.assert_close(layer.running_mean, old_mean + momentum * (mean - old_mean), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.running_var, old_var + momentum * (variance - old_var), rtol=1e-12, atol=1e-12)
        assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("kind", RUNNING_KINDS)
def test_running_statistics_converge_to_the_populations(kind: str) -> None:
    """Mean 3, variance 4: after 300 batches within the noise of a window of 1 / momentum batches."""
    layer = fresh(kind, momentum=0.02, freeze_after=300).train()
    draw = torch.Generator().manual_seed(0)
    for _ in range(300):
        layer(3 + 2 * torch.randn(16, CHANNELS, 4, 4, generator=draw))
    torch.testing.assert_close(layer.running_mean, torch.full((CHANNELS,), 3.0), rtol=0, atol=0.05)
    torch.testing.assert_close(layer.running_var, torch.full((CHANNELS,), 4.0), rtol=0, atol=0.15)


def test_frozen_statistics_stay_as_they_are_after_their_last_update() -> None:
    """Two updates, then training is evaluation; scale and shift are never trained."""
    layer = fresh("frozen_bn", freeze_after=2).train()
    states = []
    for rows in (8, 9, 10, 11):
        layer(data(rows).float())
        states.append(layer.running_mean.clone())
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[3])
    assert batch_norms(nn.Sequential(layer)) == {}
    assert torch.equal(layer(data().float()), layer.eval()(data().float()))
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("kind", ["frozen_bn", "sync_bn", "ghost_bn", "batch_renorm"])
def test_a_state_of_bn_fits_its_relatives(kind: str) -> None:
    """The same names, and in evaluation the same function."""
    bn, relative = worn("bn"), fresh(kind).double()
    relative.load_state_dict(bn.state_dict(), strict=True)
    torch.testing.assert_close(relative.eval()(data()), bn.eval()(data()))


@pytest.mark.parametrize("kind", NORMS)
def test_a_batch_of_one(kind: str) -> None:
    """One clip has T*V values per channel; one row of (B, C) has no variance and is rejected in one line."""
    assert torch.isfinite(fresh(kind).train()(data(1).float())).all()
    one = data(1, ()).float()
    assert torch.isfinite(fresh(kind).eval()(one)).all()
    if kind in BATCH_KINDS:
        with pytest.raises(ValueError, match=r"^\w+ needs 2 values per channel in training, got 1 .*batch-size"):
            fresh(kind).train()(one)
    else:
        assert torch.isfinite(fresh(kind).train()(one)).all()


@pytest.mark.parametrize("kind", NORMS)
def test_a_batch_of_nobody(kind: str) -> None:
    """Masked clips without any body leave no rows: nothing comes out and no statistic moves."""
    layer = worn(kind).train()
    before = copy.deepcopy(layer.state_dict())
    y = layer(data()[:0].requires_grad_())
    assert y.shape == (0, CHANNELS, 5, 3)
    y.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", NORMS)
def test_variance_zero_is_finite(kind: str) -> None:
    """Dead channels: finite output, finite gradients."""
    for shape in ((5, 3), ()):
        layer, x = fresh(kind).train(), torch.full((9, CHANNELS, *shape), 0.3).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", NORMS)
def test_half_precision_in_half_precision_out(kind: str) -> None:
    """bfloat16 activations, as under autocast: statistics are kept in float32."""
    layer, x = fresh(kind).train(), data(64, (8, 8)).bfloat16()
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.InstanceNorm2d):  # torch's take one type
        layer = layer.bfloat16()
    y = layer(x)
    expected = fresh(kind).train()(x.float())
    assert torch.isfinite(y).all()
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(b.dtype == torch.float32 for n, b in layer.named_buffers() if n.startswith("running"))


def test_alone_batch_norm_is_torchs_own() -> None:
    """In a world of one, bit for bit."""
    ours, theirs, x = BatchNorm(6, 0.1, 1e-5), nn.BatchNorm2d(6, momentum=0.1), clips(9)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("rows", [3, 4, 7, 8, 11, 64])
def test_ghost_parts_hold_every_row_once_and_none_is_small(rows: int) -> None:
    """Whatever the batch; a batch smaller than a part is one part."""
    layer = norm_factory(NormConfig(kind="ghost_bn", ghost=4))(CHANNELS)
    x = data(rows)
    sizes = [len(part) for part in layer.parts(x, rows, 0)]
    assert torch.equal(torch.cat(layer.parts(x, rows, 0)), x)
    assert min(sizes) >= min(4, rows)
    assert max(sizes) - min(sizes) <= 1


def test_renorm_grows_from_batch_norm_to_the_running_statistics() -> None:
    """With bounds wide enough, training after the growth is evaluation; before, it is BatchNorm."""
    wide = {"renorm_r": 1e6, "renorm_d": 1e6}
    first, bn = worn("batch_renorm", updates=0, **wide).train(), worn("bn").train()
    torch.testing.assert_close(first(data()), bn(data()))
    grown = worn("batch_renorm", updates=10, **wide)
    expected = grown.eval()(data())
    torch.testing.assert_close(grown.train()(data()), expected)


def test_renorms_bounds_grow_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 5 of 10 updates r_max is half way from 1, and d_max half way from 0."""
    layer = worn("batch_renorm", updates=5).train()
    monkeypatch.setattr(plain, "R_MAX", 1 + (plain.R_MAX - 1) / 2)
    monkeypatch.setattr(plain, "D_MAX", plain.D_MAX / 2)
    expected = torch.from_numpy(plain.batch_renorm(data().numpy(), state(layer), training=True))
    torch.testing.assert_close(layer(data()), expected, rtol=1e-12, atol=1e-12)


STARTS = {"weight": 1, "bias": 0, "v": 1, "rho": 1, "tau": 0, "alpha": 0.5, "running_mean": 0, "running_var": 1}


@pytest.mark.parametrize("kind", NORMS)
def test_parameters_start_as_published(kind: str) -> None:
    """Also BatchInstanceNorm from BatchNorm, and the thresholded linear unit from ReLU."""
    for name, tensor in fresh(kind).state_dict().items():
        if name in STARTS:
            assert (tensor == STARTS[name]).all(), name


def test_a_norm_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kind in NORMS: the settings accept its name, and every model is built with it."""

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    def make(channels: int, config: NormConfig) -> nn.Module:
        return Halved()

    monkeypatch.setitem(NORMS, "halved", Kind(make, activates=True))
    config = NormConfig(kind="halved")
    for name in MODELS:
        model = build_model(ModelConfig(name, width=0.25), config, 16, 8, 3, ((0, 1), (1, 2)))
        assert sum(isinstance(module, Halved) for module in model.modules()) > 3
        assert not any(isinstance(module, nn.ReLU) for module in model.modules())
        assert model(torch.ones(2, 3, 16, 8, 2), torch.ones(2, 2, 16, dtype=torch.bool)).isfinite().all()


def test_batch_instance_norm_projects_rho_and_lets_it_come_back() -> None:
    """Outside [0, 1] the border counts, with a gradient."""
    layer = worn("bin").train()
    with torch.no_grad():
        layer.rho.fill_(1.5)
    bn = worn("bn")
    bn.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "rho"})
    x = data()
    y = layer(x)
    torch.testing.assert_close(y, bn.train()(x))
    y.square().sum().backward()
    assert (layer.rho.grad != 0).all()


# What the kinds that standardise weights do to the convolution.


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 8, 3), lambda: nn.Linear(40, 8)])
@pytest.mark.parametrize("kind", NORMS)
def test_weights_in_front_of_a_norm(kind: str, make: Any) -> None:
    """Standardized per output unit if the kind states so, else unchanged; gradients by finite differences."""
    torch.manual_seed(0)
    plain_layer = make().double()
    layer = norm_factory(NormConfig(kind=kind)).parametrize(copy.deepcopy(plain_layer)).double()
    weight = plain_layer.weight.detach().flatten(1)
    if NORMS[kind].weights:
        expected = (weight - weight.mean(1, keepdim=True)) / torch.sqrt(weight.var(1, correction=0)[:, None] + 1e-6)
        if NORMS[kind].weights is ScaledWeightStandardization:
            expected = expected * math.sqrt(2 / (1 - 1 / math.pi)) / math.sqrt(weight.shape[1])
        torch.testing.assert_close(layer.weight.detach().flatten(1), expected)
        form = layer.parametrizations["weight"][0]
        assert gradcheck(form, (plain_layer.weight,))
    else:
        assert torch.equal(layer.weight, plain_layer.weight)
        assert type(layer) is type(plain_layer)


def test_scaled_weights_keep_the_variance_through_relus() -> None:
    """Ten layers deep the spread is still 1, without any norm; unscaled default weights let it vanish."""
    torch.manual_seed(0)
    spread = {}
    for kind in ("nf", "none"):
        norm, x = norm_factory(NormConfig(kind=kind)), torch.randn(256, 512)
        for _ in range(10):
            x = norm.parametrize(nn.Linear(512, 512, bias=False))(torch.relu(x))
        spread[kind] = x.std().item()
    assert 0.6 < spread["nf"] < 1.6
    assert spread["none"] < 0.05


def test_adaptive_clipping_bounds_each_unit_and_spares_the_last_layer() -> None:
    """|g| <= factor * max(|w|, eps) unit by unit; small gradients and layers without scaled weights untouched."""
    torch.manual_seed(0)
    norm = norm_factory(NormConfig(kind="nf"))
    model = nn.Sequential(norm.parametrize(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2))
    model(100 * torch.randn(32, 6)).square().sum().backward()
    weight = model[0].parametrizations["weight"].original
    weight.grad[0] *= 1e-9
    before = [p.grad.clone() for p in model.parameters()]
    clip_gradients(model, factor=0.01)
    small, rest = weight.grad[0], weight.grad[1:]
    assert torch.equal(small, before[[p is weight for p in model.parameters()].index(True)][0])
    bound = 0.01 * weight.detach()[1:].norm(dim=1)
    torch.testing.assert_close(rest.norm(dim=1), bound)
    last = list(model[2].parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(last, before[-2:], strict=True))


def test_adaptive_clipping_lets_a_zero_parameter_move() -> None:
    """|w| counts as at least eps = 1e-3: a zero bias keeps a gradient of norm eps * factor."""
    layer = norm_factory(NormConfig(kind="nf")).parametrize(nn.Linear(6, 5))
    nn.init.zeros_(layer.bias)
    layer(torch.ones(3, 6)).sum().backward()
    assert layer.bias.grad.tolist() == [3] * 5
    clip_gradients(nn.Sequential(layer), factor=0.5)
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 0.5e-3 / 5**0.5))


@pytest.mark.parametrize("kind", [name for name in NORMS if NORMS[name].weights is not ScaledWeightStandardization])
def test_no_other_kinds_gradients_are_clipped(kind: str) -> None:
    """Adaptive clipping belongs to nf."""
    norm = norm_factory(NormConfig(kind=kind, groups=1))
    model = nn.Sequential(norm.parametrize(nn.Linear(6, 4)), norm(4))
    (1e6 * model(torch.randn(32, 6))[:, 0]).sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    clip_gradients(model, factor=1e-9)
    assert all(g is None or torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", NORMS)
def test_a_bias_is_dropped_in_front_of_a_norm_that_centres(kind: str) -> None:
    """Only if asked."""
    norm = norm_factory(NormConfig(kind=kind))
    assert norm.parametrize(nn.Conv2d(3, 8, 1)).bias is not None
    dropped = norm.parametrize(nn.Conv2d(3, 8, 1), drop_bias=True)
    assert (dropped.bias is None) is NORMS[kind].centres
    assert dropped(torch.ones(1, 3, 2, 2)).shape == (1, 8, 2, 2)


@pytest.mark.parametrize("kind", NORMS)
def test_norm_parameters_are_those_of_norms(kind: str) -> None:
    """All of the layer's, the gain of scaled weights, and no bias of a convolution or linear layer."""
    norm = norm_factory(NormConfig(kind=kind, groups=1))
    layer, linear = norm(4), norm.parametrize(nn.Linear(6, 4))
    gains = [p for name, p in linear.named_parameters() if name.endswith("gain")]
    expected = {id(p) for p in [*layer.parameters(), *gains]}
    assert {id(p) for p in norm_parameters(nn.Sequential(linear, layer, nn.Conv2d(1, 1, 1)))} == expected


# The norm of the coordinates.

PRESENT_NMT = torch.tensor(
    [[[1, 1, 1, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 1, 1, 1]], [[1, 0, 1, 1], [1, 1, 0, 0]]]
).bool()


def coordinates(clips: int = 3, frames: int = 4) -> Tensor:
    """x_NCTVM, float64, each joint and body with a place and spread of its own."""
    draw = torch.Generator().manual_seed(clips)
    place = torch.randn(1, 3, 1, 5, 2, generator=draw, dtype=torch.float64)
    return 3 * place + torch.randn(clips, 3, frames, 5, 2, generator=draw, dtype=torch.float64) * place.abs()


def input_by_hand(x_NCTVM: Tensor, present_NMT: Tensor, name: str) -> np.ndarray:
    """Normalize one coordinate at a time over clips and frames.

    Joints share statistics (c) or not (vc); bodies share them, or not (mvc).
    """
    x, y = x_NCTVM.numpy(), np.zeros(x_NCTVM.shape)
    counts = present_NMT.numpy() if name.endswith("masked") else np.ones(present_NMT.shape, dtype=bool)
    slots = [[0], [1]] if name.startswith("mvc") else [[0, 1]]
    together = [range(x.shape[3])] if name.startswith("c") else [[v] for v in range(x.shape[3])]
    for c, joints, bodies in itertools.product(range(3), together, slots):
        values = np.concatenate([x[:, c, :, v, m][counts[:, m]] for m in bodies for v in joints])
        for v, m in itertools.product(joints, bodies):
            xhat = (x[:, c, :, v, m] - values.mean()) / np.sqrt(values.var() + plain.EPS)
            y[:, c, :, v, m] = np.where(counts[:, m], xhat, 0)
    return y


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "none"])
def test_an_input_norm_is_its_formula(name: str) -> None:
    """And running statistics are of as many layers as there are sets."""
    layer = norm_factory(NormConfig(input=name, eps=plain.EPS)).input(3, 5, 2).double()
    x = coordinates()
    torch.testing.assert_close(layer(x, PRESENT_NMT), torch.from_numpy(input_by_hand(x, PRESENT_NMT, name)))
    assert len(batch_norms(layer)) == (2 if name.startswith("mvc") else 1)


@pytest.mark.parametrize(("name", "blown_up"), [("c_masked", False), ("vc_masked", True)])
def test_a_joint_that_hardly_moves_stays_calm_where_all_share_a_scale(name: str, blown_up: bool) -> None:
    """Noise of centimetres at the hip becomes as wide as a hand's metre where each joint has a scale of its own."""
    x = coordinates(64) * torch.tensor([0.02, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    everyone = torch.ones(64, 2, 4, dtype=torch.bool)
    y = norm_factory(NormConfig(input=name, eps=1e-9)).input(3, 5, 2).double()(x, everyone)
    spread = y[..., 0, :].std(dim=(0, 2, 3))
    assert bool((spread > 0.9).all()) is blown_up
    assert bool((spread < 0.1).all()) is not blown_up


@pytest.mark.parametrize("name", [name for name in INPUTS if name != "none"])
def test_absent_frames_weigh_nothing_and_stay_zero_when_masked(name: str) -> None:
    """Filled with 1e9: the same output and buffers if masked, others if not (the negative control)."""
    x = torch.where(PRESENT_NMT[:, None, :, :, None].movedim(2, -1), coordinates(), 0.0)
    filled = torch.where(PRESENT_NMT[:, None, :, :, None].movedim(2, -1), x, 1e9)
    norm = norm_factory(NormConfig(input=name))
    one, two = norm.input(3, 5, 2).double(), norm.input(3, 5, 2).double()
    y = one(x, PRESENT_NMT)
    assert torch.equal(y, two(filled, PRESENT_NMT)) is name.endswith("masked")
    same = all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    assert same is name.endswith("masked")
    absent = y.permute(0, 4, 2, 3, 1)[~PRESENT_NMT]
    assert (absent == 0).all().item() is name.endswith("masked")


@pytest.mark.parametrize("bodies", [0, 1])
def test_a_masked_input_norm_survives_a_slot_with_one_frame_or_none(bodies: int) -> None:
    """By the running statistics, which stay; the gradient reaches its scale, so ranks agree on who has gradients."""
    present = torch.zeros(3, 2, 4, dtype=torch.bool)
    present[:, 0] = True
    present[0, 1, :bodies] = True
    layer = norm_factory(NormConfig(input="mvc_masked")).input(3, 5, 2).double()
    layer(coordinates(), present).sum().backward()
    assert torch.isfinite(layer(coordinates(), present)).all()
    assert layer.layers[1].running_mean.abs().max() == 0
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("frames", [0, 1, 4])
@pytest.mark.parametrize("name", [name for name in INPUTS if name.endswith("masked")])
def test_weighting_absent_frames_equals_leaving_them_out(name: str, frames: int) -> None:
    """Output, gradients and buffers, also where a slot has no frame or one; the weights alone keep shapes."""
    present = torch.tensor([[True, True], [True, False], [False, True]])[:, :, None].repeat(1, 1, 4)
    present[:, 1, frames:] = False
    x = coordinates() * present.transpose(1, 2)[:, None, :, None, :]
    found = []
    for static in (False, True):
        layer = norm_factory(NormConfig(input=name)).input(3, 5, 2).double()
        layer.is_static = static
        for scale in (1.0, 3.0):
            y = layer(scale * x, present)
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        found.append([y.detach(), *(p.grad for p in layer.parameters()), *layer.buffers()])
        evaluated = layer.eval()(x, present).detach()
        found[-1].append(evaluated)
    torch.testing.assert_close(found[1], found[0])
    assert found[1][0].stride() == found[0][0].stride()


# What evaluation asks of a layer.


@pytest.mark.parametrize("kind", BATCH_KINDS)
def test_a_layer_tells_its_output_by_other_statistics(kind: str) -> None:
    """By given ones as if they were its running ones; by the batch's as in training; buffers stay as they are."""
    layer, x = worn(kind), data()
    mean, variance, _ = moments(x)
    twin = copy.deepcopy(layer).eval()
    twin.running_mean.copy_(mean)
    twin.running_var.copy_(variance)
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(output_by(layer, x, (mean, variance)), twin(x))
    by_batch = output_by(layer.eval(), x, None)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    torch.testing.assert_close(by_batch, layer.train()(x))


def test_a_foreign_batch_norm_is_understood_too() -> None:
    """The doctor takes any model: torch's own layers, also without scale and shift."""
    for layer in (nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS, affine=False)):
        x = data().float()
        torch.testing.assert_close(output_by(layer.eval(), x, None), layer.train()(x))


# Statistics over ranks.


def clips(rows: int) -> Tensor:
    """Rows whose mean (camera distance, 3 m) is ten times their spread, where E[x^2] - E[x]^2 would cancel."""
    x = torch.randn(rows, 6, 8, 5, generator=torch.Generator().manual_seed(rows))
    return 3.0 + 0.3 * x * torch.linspace(0.5, 2, rows).reshape(-1, 1, 1, 1)


def rank_cases() -> dict[str, dict[str, Any]]:
    """Every kind with batch statistics, dense and masked, on even, uneven and empty ranks; input norms; a control."""
    present = torch.arange(20) % 3 != 0
    ours = [int(present[:4].sum()), int(present[4:].sum())]
    cases: dict[str, dict[str, Any]] = {}
    for kind in RUNNING_KINDS:
        chosen = {"kind": kind, "ghost": 4, "renorm_steps": 0, "freeze_after": 9}
        shapes = {"uneven": [5, 11], "even": [8, 8], "empty": [16, 0]}
        cases |= {f"{kind} {name}": {"settings": chosen, "rows": rows, "x": clips(16)} for name, rows in shapes.items()}
        cases[f"{kind} masked"] = {"settings": chosen, "rows": ours, "x": clips(20)[present]}
        cases[f"{kind} constant"] = {
            "settings": chosen,
            "rows": [5, 11],
            "x": clips(16)[:, :, :1, :1].expand(16, 6, 8, 5) * (torch.arange(16) > 4)[:, None, None, None],
        }
        cases[f"{kind} vector"] = {"settings": chosen, "rows": [1, 15], "x": clips(16)[..., 0, 0]}
        step = chosen | {"momentum": 1.0, "ghost": 99}
        cases[f"{kind} step"] = {"settings": step, "rows": [2, 5], "x": clips(7)[:, :, :2, :1]}
    cases["alone"] = {"settings": {"kind": "bn", "sync": False}, "rows": [5, 11], "x": clips(16)}
    for name in INPUTS[1:]:
        seen = torch.rand(16, 2, 4, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.9, 0.2])[:, None]
        x = torch.where(seen[:, None, :, :, None].movedim(2, -1), coordinates(16).float(), 0.0)
        cases[f"input {name}"] = {"settings": {"input": name}, "rows": [5, 11], "x": x, "present": seen}
    for name, rows in {"uneven": [5, 11], "even": [8, 8], "empty": [16, 0]}.items():
        cases[f"pooled {name}"] = {"settings": {}, "rows": rows, "x": clips(16), "pooled": True}
    draw = torch.Generator().manual_seed(7)
    for case in cases.values():
        windows = case["x"][..., ::2, ::2][..., :4, :2] if "pooled" in case else case["x"]
        case["w"] = torch.randn(windows.shape, generator=draw)
    return {
        f"{name} {str(dtype)[6:]}": case | {key: case[key].to(dtype) for key in "xw"}
        for name, case in cases.items()
        for dtype in (torch.float64, torch.float32)
    }


CASES = rank_cases()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """Results of two gloo ranks for every case, from one start of the processes."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(CASES, folder / "cases.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = os.environ | {"PYTHONPATH": str(ROOT)}  # a script's own folder replaces the working directory on its path
    done = subprocess.run([*command, str(RANKS), str(folder)], timeout=120, capture_output=True, text=True, env=here)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


def error(two_ranks: list[dict[str, dict[str, Tensor]]], name: str, key: str) -> float:
    """Largest error against one big batch in float64, in units of the tensor's largest value (at least 1)."""
    case, ranks = CASES[name], [rank[name] for rank in two_ranks]
    doubled = case["x"].double(), case["w"].double()
    one = outcome(case["settings"], *doubled, case.get("present"), "pooled" in case)[key]
    if "running" in key:
        assert torch.equal(ranks[0][key], ranks[1][key]), "ranks differ"
    two = torch.cat([rank[key] for rank in ranks]) if key in ("y", "x_grad") else ranks[0][key]
    return ((two.double() - one).abs().max() / one.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize("kind", [*RUNNING_KINDS, "input"])
def test_two_ranks_equal_one_big_batch(two_ranks: list[dict[str, dict[str, Tensor]]], kind: str) -> None:
    """Two ranks, one of them possibly without rows, equal one batch.

    In float64 everything to 1e-12; in float32 output, gradient of the input and running statistics to 1e-6 (the
    parameters' gradients are sums that nearly cancel, on one rank as on two).
    """
    names = [name for name in CASES if name.split()[0] == kind]
    assert len(names) >= 12
    for name in names:
        keys = two_ranks[0][name]
        if CASES[name]["x"].dtype == torch.float64:
            assert max(error(two_ranks, name, key) for key in keys) <= 1e-12, name
        else:
            keys = [key for key in keys if "_grad" not in key or key == "x_grad"]
            assert max(error(two_ranks, name, key) for key in keys) <= 1e-6, name


@pytest.mark.parametrize("kind", RUNNING_KINDS)
def test_the_running_statistics_of_two_ranks_are_unbiased(
    two_ranks: list[dict[str, dict[str, Tensor]]], kind: str
) -> None:
    """After one step with momentum 1: mean and variance (correction 1) of the rows of both ranks, 14 values each."""
    x = CASES[f"{kind} step float64"]["x"]
    for rank in two_ranks:
        found = rank[f"{kind} step float64"]
        torch.testing.assert_close(found["running_mean"], x.mean((0, 2, 3)), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["running_var"], x.var((0, 2, 3), correction=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", ["uneven", "even", "empty", "masked"])
def test_batch_norms_parameter_gradients_equal_one_big_batch_in_float32(
    two_ranks: list[dict[str, dict[str, Tensor]]], rows: str
) -> None:
    """For the twin itself the promise is 1e-6 for every gradient, in the layer's place behind a convolution."""
    name = f"bn {rows} float32"
    assert {"weight_grad", "bias_grad"} <= set(two_ranks[0][name])
    assert max(error(two_ranks, name, key) for key in two_ranks[0][name]) <= 1e-6


@pytest.mark.parametrize("rows", ["uneven", "even", "empty"])
def test_norm_max_pool_and_relu_in_one_pass_equal_one_big_batch(
    two_ranks: list[dict[str, dict[str, Tensor]]], rows: str
) -> None:
    """A rank without rows goes torch's way, and exchanges the same tensors."""
    name = f"pooled {rows} float32"
    assert max(error(two_ranks, name, key) for key in two_ranks[0][name]) <= 1e-6


def test_without_sync_two_ranks_are_not_one_big_batch(two_ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """Negative control: the equality above is the work of the synchronisation."""
    assert error(two_ranks, "alone float64", "y") > 1e-3
    with pytest.raises(AssertionError, match="ranks differ"):
        error(two_ranks, "alone float64", "running_mean")


def test_moments_of_no_rows_are_zero() -> None:
    """A rank without real bodies contributes nothing, and no nan."""
    mean, variance, count = moments(torch.empty(0, 4, 8, 8))
    assert mean.tolist() == variance.tolist() == [0] * 4
    assert count == 0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "batchnorm", "norm.kind 'batchnorm' is unknown; choose one of none, bn"),
        ("persons", "both", "norm.persons 'both' is unknown; choose one of loop, fold, masked, per_person"),
        ("input", "cv", "norm.input 'cv' is unknown; choose one of none, c, c_masked, vc, vc_masked, mvc"),
        ("recalibrate", "always", "norm.recalibrate 'always' is unknown; choose one of never, final, each"),
        (
            "momentum",
            0.0,
            r"norm.momentum 0.0 is outside \(0, 1\]; at 0 the running statistics would keep their initial",
        ),
        ("momentum", 1.5, "norm.momentum 1.5 is outside"),
        ("eps", 0.0, "norm.eps 0.0 is too small: must be above 0"),
        ("groups", 0, "norm.groups 0 is too small: must be at least 1"),
        ("ghost", 1, "norm.ghost 1 is too small: must be at least 2"),
        ("renorm_r", 0.9, "norm.renorm-r 0.9 is too small: must be at least 1"),
        ("renorm_d", -0.1, "norm.renorm-d -0.1 is too small: must be at least 0"),
        ("renorm_steps", -1, "norm.renorm-steps -1 is too small: must be at least 0"),
        ("freeze_after", -1, "norm.freeze-after -1 is too small: must be at least 0"),
        ("clip", 0.0, "norm.clip 0.0 is too small: must be above 0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: object, words: str) -> None:
    """The message names the setting and what is allowed, in one line."""
    with pytest.raises(ValueError, match=words) as error:
        NormConfig(**{field: value})
    assert "\n" not in str(error.value)


def test_several_gpus_take_torchs_sync_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with norm.sync, and only on several ranks with GPUs."""

    def layer(ranks: int, gpu: bool, sync: bool) -> type[nn.Module]:
        monkeypatch.setattr("pipeline.distributed.world_size", lambda: ranks)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        return type(norm_factory(NormConfig(kind="bn", sync=sync))(4))

    assert layer(2, gpu=True, sync=True) is nn.SyncBatchNorm
    others = [layer(2, gpu=True, sync=False), layer(2, gpu=False, sync=True), layer(1, gpu=True, sync=True)]
    assert others == [BatchNorm] * 3


def test_sync_bn_insists_on_all_ranks() -> None:
    """bn follows norm.sync; sync_bn with it off would be bn under another name."""
    with pytest.raises(ValueError, match="sync_bn with norm.sync off contradicts itself; .* norm.kind bn"):
        NormConfig(kind="sync_bn", sync=False)


@pytest.mark.parametrize("kind", [name for name in NORMS if NORMS[name].takes_groups])
def test_groups_must_divide_the_channels(kind: str) -> None:
    """The message names both numbers."""
    with pytest.raises(ValueError, match="norm.groups 5 does not divide 16 channels"):
        norm_factory(NormConfig(kind=kind, groups=5))(16)


def test_masked_bodies_never_enter_the_maximum_where_all_features_are_negative() -> None:
    """A zero for an absent body would win; a clip without a body yields zeros."""
    x, present = -1 - torch.rand(3, 4, 2, 2, 2), torch.tensor([[True, False], [True, True], [False, False]])
    y = masked(lambda rows, slot: rows, x, present)
    assert torch.equal(y[0], x[0, ..., 0])
    assert (y[1] < 0).all()
    assert (y[2] == 0).all()

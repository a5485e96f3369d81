"""sources and layers: which statistics a model is normalized by, by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor.layers import Layer, decayed_scales, key_of
from pipeline.normdoctor.moments import Moments
from pipeline.normdoctor.sources import joint, merged_over_ranks, per_call, per_layer, running, with_eps

X = torch.empty(0)


def of(mean: float, variance: float, count: float = 1.0) -> Moments:
    """Moments of one channel."""
    return Moments(torch.tensor([mean]).double(), torch.tensor([variance]).double(), count)


def layer(variance: list[float], eps: float = 1e-5, momentum: float | None = 0.1, updates: int = 100) -> Layer:
    """A layer with these running variances and means of 0."""
    v = torch.tensor(variance)
    return Layer(torch.zeros_like(v), v, torch.ones_like(v), momentum, updates, eps)


def state(mean: float, variance: float) -> dict[str, Tensor]:
    """Buffers of a layer `norm`."""
    return {"norm.running_mean": torch.tensor([mean]), "norm.running_var": torch.tensor([variance])}


def values(pair: tuple[Tensor, Tensor] | None) -> tuple[float, float]:
    """Mean and variance of one channel."""
    assert pair is not None
    return pair[0].item(), pair[1].item()


def test_a_joint_set_is_the_union_and_a_set_per_call_its_own() -> None:
    """A call that saw no rows takes the union."""
    table = {("norm", 0): of(0, 0, 1), ("norm", 1): of(4, 0, 3), ("norm", 2): of(9, 9, 0)}
    assert values(joint(table)(("norm", 1), X)) == (3.0, 3.0)
    assert values(per_call(table)(("norm", 1), X)) == (4.0, 0.0)
    assert values(per_call(table)(("norm", 2), X)) == (3.0, 3.0)


def test_running_statistics_are_those_that_were_found() -> None:
    """A layer without any goes by the batch."""
    source = running({"norm": layer([4.0]), "none": Layer(None, None, None, 0.1, 0, 1e-5)})
    assert values(source(("norm", 0), X)) == (0.0, 4.0)
    assert source(("none", 0), X) is None


def test_another_eps_is_made_up_for_in_the_variance() -> None:
    """The layer adds its own eps of 0.5 again; other layers stay as they are."""
    layers = {"norm": layer([4.0], eps=0.5), "other": layer([4.0], eps=0.5)}
    source = with_eps(layers, {"norm": 1e-5})
    assert values(source(("norm", 0), X))[1] + 0.5 == pytest.approx(4.0 + 1e-5)
    assert values(source(("other", 0), X)) == (0.0, 4.0)


def test_ranks_weigh_alike_and_their_means_count() -> None:
    """Means 0, 0 and 3 with variance 1: mean 1, variance 1 + 2."""
    source = per_layer(merged_over_ranks({"norm": layer([1.0])}, [state(0, 1), state(0, 1), state(3, 1)]))
    assert source is not None
    assert values(source(("norm", 0), X)) == pytest.approx((1.0, 3.0))


def test_one_rank_or_ranks_that_lack_a_layer_have_no_union() -> None:
    """None, rather than a part."""
    layers = {"norm": layer([1.0])}
    assert merged_over_ranks(layers, [state(0, 1)]) is None
    assert merged_over_ranks(layers | {"other": layer([1.0])}, [state(0, 1)] * 2) is None
    assert merged_over_ranks({}, [state(0, 1)] * 2) is None


def test_a_variance_below_ten_eps_is_drowned() -> None:
    """5 eps is, 10 eps is not."""
    assert layer([5e-5, 1e-4, 1.0, 0.0], eps=1e-5).drowned_share == 0.5
    assert Layer(None, None, None, 0.1, 0, 1e-5).drowned_share == 0.0


def test_what_a_layer_remembers() -> None:
    """1 / momentum updates, at most all; without momentum all. Initial values count 0.9 to the power of the updates."""
    assert layer([1.0], momentum=0.1, updates=100).window == 10
    assert layer([1.0], momentum=0.1, updates=3).window == 3
    assert layer([1.0], momentum=None, updates=7).window == 7
    settled = math.ceil(math.log(0.05) / math.log(0.9))
    assert layer([1.0], momentum=0.1, updates=settled).settled
    assert not layer([1.0], momentum=0.1, updates=settled - 1).settled
    assert layer([1.0], momentum=None, updates=0).settled


def test_scales_with_weight_decay_are_named() -> None:
    """Those in a parameter group that decays."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    groups = [{"params": [model[0].weight], "weight_decay": 0.1}, {"params": [model[1].weight], "weight_decay": 0.0}]
    assert decayed_scales(model, torch.optim.SGD(groups, 0.1)) == {"0"}
    assert decayed_scales(model, groups) == {"0"}


def test_the_model_itself_has_no_prefix() -> None:
    """A bare batch norm is a model."""
    assert (key_of("", "weight"), key_of("norm", "weight")) == ("weight", "norm.weight")

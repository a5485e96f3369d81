"""sites: layers are found, calls counted, and outputs replaced by those of other statistics."""

import math
import sys
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor.sites import (
    Site,
    batch_norms,
    buffers_kept,
    by_moments_alone,
    eagerly,
    output_by,
    restore_buffers,
    same_bits,
    slot_of,
    statistics,
)


class Own(nn.BatchNorm1d):
    """A layer with a formula of its own: a constant."""

    frozen = False
    slot = 1
    by_moments_alone = False

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return 2s."""
        return torch.full_like(x, 2.0)

    def normalize_by_batch(self, x: Tensor) -> Tensor:
        """Return 3s."""
        return torch.full_like(x, 3.0)


class Twice(nn.Module):
    """One layer called twice, another once."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.once = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of three calls."""
        return self.shared(x) + self.shared(2 * x) + self.once(x)


def test_calls_are_counted_from_zero_in_each_batch() -> None:
    """Or where the caller clears the count, however often a batch calls the model; no replaced forward afterwards."""
    model, seen = Twice().eval(), []

    def source(site: Site, x: Tensor) -> None:
        seen.append((site, x[0, 0].item()))

    x = torch.ones(4, 2)
    with statistics(model, source):
        model(x)
    calls: Counter[str] = Counter()
    with statistics(model, source, calls):
        model(3 * x), model(x)
    assert calls == {"shared": 4, "once": 2}
    sites = [("shared", 0), ("shared", 1), ("once", 0)]
    again = [("shared", 2), ("shared", 3), ("once", 1)]
    assert seen == list(zip(sites * 2 + again, [1.0, 2.0, 1.0, 3.0, 6.0, 3.0, 1.0, 2.0, 1.0], strict=True))
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in model.modules())


def test_a_layer_normalizes_by_the_statistics_of_the_source() -> None:
    """(x - 1) / sqrt(4 + eps) in torch's own layers; without a source by the running ones, here x itself."""
    model, x = nn.Sequential(nn.BatchNorm1d(2, eps=0.0)).eval(), torch.randn(4, 2)
    with torch.no_grad(), statistics(model, lambda site, x: (torch.ones(2), torch.full((2,), 4.0))):
        assert torch.allclose(model(x), (x - 1) / 2)
    with torch.no_grad(), statistics(model, None):
        assert torch.equal(model(x), x)


def test_none_is_the_batch() -> None:
    """As torch does in training, with the biased variance."""
    layer, x = nn.BatchNorm1d(2), torch.randn(8, 2)
    assert torch.allclose(output_by(layer, x, None), layer.train()(x), atol=1e-6)


def test_a_layer_with_a_formula_of_its_own_is_asked_for_it() -> None:
    """By given statistics, by the batch, and for its slot; torch's own layers answer by their moments alone."""
    own, x = Own(2), torch.zeros(4, 2)
    assert output_by(own, x, (torch.zeros(2), torch.ones(2))).unique().tolist() == [2.0]
    assert output_by(own, x, None).unique().tolist() == [3.0]
    assert (slot_of(own), by_moments_alone(own)) == (1, False)
    assert (slot_of(nn.BatchNorm1d(2)), by_moments_alone(nn.BatchNorm1d(2))) == (None, True)


def test_frozen_layers_are_left_out_and_reused_ones_are_named_once() -> None:
    """By the first name."""
    shared, frozen = nn.BatchNorm1d(2), Own(2)
    frozen.frozen = True
    assert list(batch_norms(nn.Sequential(shared, frozen, shared, nn.GroupNorm(1, 2)))) == ["0"]


def test_before_torch_2_6_nothing_is_asked_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compiler has no stance there."""
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    with eagerly():
        assert not hasattr(torch.compiler, "set_stance")


def test_the_compiler_is_not_loaded_for_a_model_that_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to load than a small diagnosis."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with eagerly():
        assert "torch._dynamo" not in sys.modules


def test_changed_buffers_are_named_and_restored() -> None:
    """And only those."""
    model = Twice()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.once.running_var += 1
    assert restore_buffers(model, before) == ["once.running_var"]
    assert torch.equal(model.once.running_var, before["once.running_var"])
    with buffers_kept(model):
        model.train()(torch.randn(4, 2))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_nan_equals_itself_and_nothing_else() -> None:
    """Shapes count too."""
    nan = torch.tensor([math.nan, 1.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, torch.tensor([0.0, 1.0]))
    assert not same_bits(torch.zeros(1), torch.zeros(2))

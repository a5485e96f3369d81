"""functional: batch norms whose statistics act although they are never called."""

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.collector import Collector
from pipeline.normdoctor.effects import note_layers
from pipeline.normdoctor.functional import Call, Intercepted
from pipeline.normdoctor.layers import Layer
from pipeline.normdoctor.memory import memory_of
from pipeline.normdoctor.sites import statistics
from pipeline.normdoctor.sources import batch_statistics

X = 3 + 2 * torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


class Narrow(nn.Module):
    """Uses the last four of six channels of a norm that it does not call, unless it is `called`."""

    def __init__(self, called: bool = False) -> None:
        super().__init__()
        self.norm, self.called = nn.BatchNorm1d(6), called
        self.norm.running_mean.copy_(torch.arange(6.0))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, 6)."""
        if self.called:
            return self.norm(x)
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return F.batch_norm(x[:, 2:], mean[2:], variance[2:], self.norm.weight[2:], training=self.training)


def noted(model: nn.Module) -> nn.Module:
    """A copy in eval mode on which the doctor has noted what it found."""
    twin = copy.deepcopy(model).eval()
    note_layers(twin, lambda: twin(X))
    return twin


def test_the_entries_that_act_are_found() -> None:
    """And no others; a layer that is called keeps no note."""
    model = noted(Narrow())
    memory = memory_of(model.norm)
    assert memory is not None
    assert memory.part == (2, 4)
    layer = Layer.of(model.norm)
    assert layer.running_mean_C is not None
    assert layer.running_mean_C.tolist() == [2.0, 3.0, 4.0, 5.0]
    assert memory_of(noted(Narrow(called=True)).norm) is None


def test_such_a_call_is_a_call_site_that_takes_any_statistics() -> None:
    """As in training by those of the batch, by given ones, and seen by the collector; buffers stay."""
    model, calls = noted(Narrow()), Counter[str]()
    before = model.norm.running_mean.clone()
    with statistics(model, batch_statistics, calls):
        assert torch.allclose(model(X), F.batch_norm(X[:, 2:], None, None, training=True), atol=1e-5)
    with statistics(model, lambda site, x: (torch.zeros(4), torch.full((4,), 4.0)), Counter()):
        assert torch.allclose(model(X), X[:, 2:] / 2, atol=1e-4)
    collector = Collector(model)
    with statistics(model, collector, Counter()):
        model(X)
    assert torch.allclose(collector.seen.population["norm", 0].mean_C.float(), X[:, 2:].mean(0), atol=1e-5)
    assert calls == Counter(norm=1)
    assert torch.equal(model.norm.running_mean, before)


def test_the_repaired_model_has_its_statistics_in_the_entries_that_act() -> None:
    """The others stay."""
    model = Narrow().eval()
    repaired = diagnose(model, [(X[i : i + 8], X[i : i + 8, 2:]) for i in range(0, 32, 8)]).repaired("joint")
    before, after = model.norm.running_mean, repaired.norm.running_mean
    assert torch.equal(before[:2], after[:2])  # type: ignore[index, union-attr]
    assert torch.allclose(after[2:], X[:, 2:].mean(0), atol=1e-4)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("function", ["functional", "torch"])
def test_both_functions_are_intercepted_with_their_own_order_of_arguments(function: str) -> None:
    """None leaves a call to torch."""
    seen: list[Call] = []
    mean, variance, weight = torch.zeros(6), torch.ones(6), torch.full((6,), 2.0)
    with Intercepted(seen.append):
        if function == "functional":
            output = F.batch_norm(X, mean, variance, weight, eps=0.0)
        else:
            output = torch.batch_norm(X, weight, None, mean, variance, False, 0.1, 0.0, False)
    assert torch.allclose(output, 2 * X)
    assert seen[0].running_mean is mean
    assert seen[0].weight is weight
    assert seen[0].eps == 0.0
    assert not seen[0].training

"""settling: buffers that follow the weights, and fit other ones."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.bench import Bench
from pipeline.normdoctor.samples import take
from pipeline.normdoctor.settling import buffers_as, settled_buffers
from tests.pipeline.normdoctor.planted import data

TRAIN, HELD_OUT = data(0), data(1)
KINDS = {"hook": nn.utils.spectral_norm, "parametrization": nn.utils.parametrizations.spectral_norm}


def network(kind: str) -> nn.Sequential:
    """A trained network with spectral norm in one of torch's two forms, its vectors at rest."""
    torch.manual_seed(0)
    model = nn.Sequential(KINDS[kind](nn.Linear(8, 16)), nn.ReLU(), KINDS[kind](nn.Linear(16, 3)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(60):
        x, y = TRAIN[step % len(TRAIN)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(4 * model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(200):
            model(TRAIN[0][0])
    return model.eval()


def vectors(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of spectral norm."""
    return dict(model.named_buffers())


def bench(model: nn.Module) -> Bench:
    """The model with its samples, as the doctor sees it."""
    return Bench(copy.deepcopy(model), take(TRAIN), None, lambda net, b: net(b[0]), lambda o, b: o.argmax(1) == b[1])


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_other_weights_come_to_rest_at_those_of_these(kind: str) -> None:
    """Averaged with others they are too short; at rest nothing is found. The model stays as it is."""
    model = network(kind)
    assert settled_buffers(bench(model)) == {}
    true = {name: value.clone() for name, value in vectors(model).items()}
    with torch.no_grad():
        for value in vectors(model).values():
            value.mul_(0.4).add_(0.05)
    before = {name: value.clone() for name, value in vectors(model).items()}
    on_bench = bench(model)
    found = settled_buffers(on_bench)
    assert set(found) == set(true)
    for name, value in found.items():
        assert torch.allclose(value.abs(), true[name].abs(), atol=0.02)
        assert torch.equal(on_bench.model.get_buffer(name), before[name])
    expected = network(kind)(TRAIN[0][0])
    with buffers_as(on_bench.model, found):
        assert torch.allclose(on_bench.model(TRAIN[0][0]), expected, rtol=0.05, atol=0.05)


def test_they_are_a_cause_where_the_score_depends_on_them() -> None:
    """A margin of the outputs; the healthy network has none. It has no batch norm, and is not cleared by that."""

    def margin(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -nn.functional.cross_entropy(4 * output, batch[1], reduction="none")

    model = network("hook")
    assert diagnose(model, TRAIN, HELD_OUT, metric=margin).named == []
    with torch.no_grad():
        for value in vectors(model).values():
            value.mul_(2.0)
    found = diagnose(model, TRAIN, HELD_OUT, metric=margin)
    assert found.named == ["foreign"]
    assert found.verdict.startswith("The model has no batch norm, but a cause was found: 0.weight_u, 0.weight_v")
    assert found.causes[0].after > found.causes[0].before
    x, y = (torch.cat(column) for column in zip(*HELD_OUT, strict=True))
    with torch.no_grad():
        assert margin(found.repaired()(x), (x, y)).mean().item() == pytest.approx(found.causes[0].after, abs=1e-4)


class Follower(nn.Module):
    """Its buffer follows the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        """Subtract what was seen last."""
        if self.training:
            self.last.copy_(x.max(0).values)
        return x - self.last


def test_buffers_that_follow_the_input_are_left_out() -> None:
    """No passes bring them to rest."""
    assert settled_buffers(bench(nn.Sequential(Follower(), nn.Linear(8, 3)))) == {}

"""The zoo's plain passes and its judgement, on networks of torch alone; the zoo itself is `make test-zoo`."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.zoo import kinds, reference, run


class Activated(nn.BatchNorm1d):
    """A norm with its activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().forward(x))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), Activated(8), nn.Dropout(0.5), nn.Linear(8, 3))


def _batches() -> list[Any]:
    draw = torch.Generator().manual_seed(0)
    return [(3 * torch.randn(16, 4, generator=draw) + 1, torch.arange(16) % 3) for _ in range(4)]


def test_b_is_a_training_pass_without_dropout() -> None:
    model, batches = _model(), _batches()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    a, b = reference.both(model, batches, kinds.apply, kinds.first_choice)
    model.train()
    model[2].eval()
    with torch.no_grad():
        right = [kinds.first_choice(model(x), (x, y)) for x, y in batches]
        assert b.mean == torch.cat(right).double().mean().item()
    assert a.mean != b.mean
    assert before["1.running_mean"].abs().max() == 0


def test_both_leaves_the_model_as_it_was() -> None:
    model, batches = _model(), _batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference.both(model, batches, kinds.apply, kinds.first_choice)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_slow_statistics_are_those_of_so_many_updates_from_the_initial_values() -> None:
    model, batches = _model(), _batches()
    reference.recalibrate(model, batches, kinds.apply)
    twin, mean, variance = _model(), model[1].running_mean.clone(), model[1].running_var.clone()
    reference.slow(model, momentum=0.2, updates=3)
    for _ in range(3):
        for name, target in (("running_mean", mean), ("running_var", variance)):
            getattr(twin[1], name).lerp_(target, 0.2)
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


def test_recalibration_averages_the_statistics_of_all_batches() -> None:
    model, batches = _model(), _batches()
    reference.recalibrate(model, batches, kinds.apply)
    with torch.no_grad():
        means = torch.stack([model[0](x).mean(0) for x, _ in batches])
    torch.testing.assert_close(model[1].running_mean, means.mean(0))
    assert model[1].momentum == 0.1
    assert not model.training


@pytest.mark.parametrize("as_dict", [False, True])
def test_reshuffling_keeps_each_sample_with_its_label(as_dict: bool) -> None:
    batches: list[Any] = [(torch.arange(8) + 8 * n, -torch.arange(8) - 8 * n) for n in range(3)]
    if as_dict:
        batches = [{"x": x, "y": y} for x, y in batches]
    torch.manual_seed(0)
    mixed = [tuple(batch.values()) if as_dict else batch for batch in kinds.reshuffled(batches)]
    x = torch.cat([batch[0] for batch in mixed])
    assert torch.equal(torch.cat([batch[1] for batch in mixed]), -x)
    assert x.sort().values.tolist() == list(range(24))
    assert x.tolist() != list(range(24))
    assert [len(batch[0]) for batch in mixed] == [8, 8, 8]


LINE = {
    "name": "a", "norms": 1, "A": 0.5, "B": 0.5, "plain_A": 0.5, "plain_B": 0.5, "ties": 0.0, "causes": [],
    "suspicions": [], "named": [], "gain": 0.0, "seconds": 1.0,
}  # fmt: skip

PLANTED = {
    "sick": 0.2, "blamed": ["stale"], "remedy": "joint", "promised": {"A": 0.9, "C": 0.8},
    "repaired": {"A": 0.9, "C": 0.8}, "repaired_ties": 0.0, "loaded": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ""),
        ({"B": 0.4985}, "B differs"),
        ({"A": 0.502, "ties": 0.004}, ""),
        ({"causes": ["stale"]}, "false cause: stale"),
        ({"causes": ["stale"], "gain": 0.3}, ""),
        (PLANTED, ""),
        (
            PLANTED | {"repaired": {"A": 0.9, "C": 0.79}},
            "repaired {'A': 0.9, 'C': 0.79}, promised {'A': 0.9, 'C': 0.8}, loaded True",
        ),
        (PLANTED | {"loaded": False}, "repaired {'A': 0.9, 'C': 0.8}, promised {'A': 0.9, 'C': 0.8}, loaded False"),
        ({"error": "IndexError: x", "at": "sites.py:1"}, "IndexError: x (sites.py:1)"),
    ],
)
def test_fault(change: dict[str, Any], expected: str) -> None:
    assert run.fault(LINE | change) == expected


def test_the_table_puts_what_is_wrong_first() -> None:
    lines = [LINE, LINE | {"name": "z", "error": "E", "at": "b.py:2"}, LINE | {"name": "b"} | PLANTED]
    assert run.table(lines).splitlines()[2].startswith("| z |")
    assert "| 20.0 | 80.0 | 80.0 | stale |" in run.table(lines)
    assert "equal a plain pass in 2, crashes 1, false causes 0" in run.summary(lines)
    assert "a cause proven in 1 of 1; repaired, saved and loaded with the promised scores 1;" in run.summary(lines)

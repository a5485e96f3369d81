"""composition: shares of labels in a loader's own batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.normdoctor import diagnose
from pipeline.normdoctor.composition import shares_of_labels
from pipeline.normdoctor.samples import take

LABELS = torch.arange(10).repeat_interleave(32)


def ordered(share: float, seed: int = 0) -> Tensor:
    """LABELS in class order, all but a share of them shuffled in place."""
    draw = torch.Generator().manual_seed(seed)
    moved = torch.randperm(len(LABELS), generator=draw)[: int((1 - share) * len(LABELS))]
    order = torch.arange(len(LABELS))
    order[moved] = moved.sort().values
    return LABELS[order]


def tensors(labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of 32 with labels as tensors."""
    return [(torch.randn(len(part), 4), part) for part in labels.split(32)]


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 20, 40), (0.5, 5, 12), (0.25, 2, 5)])
def test_sorted_labels_vary_between_batches(share: float, least: float, most: float) -> None:
    """A share s in order: the variance is 1 + s^2 (m - 1) times that of random batches of m."""
    shares = shares_of_labels(take(tensors(ordered(share))))
    assert shares is not None
    assert least < shares.ratio < most


@pytest.mark.parametrize("seed", range(20))
def test_random_batches_do_not_vary(seed: int) -> None:
    """The statistic is that of chance."""
    shares = shares_of_labels(take(tensors(ordered(0.0, seed))))
    assert shares is not None
    assert 0.6 < shares.ratio < 1.6


def test_a_balanced_sampler_varies_less_than_chance() -> None:
    """Every batch holds each class equally often."""
    shares = shares_of_labels(take(tensors(LABELS.reshape(10, 32).T.flatten())))
    assert shares is not None
    assert shares.ratio < 0.5


def test_the_first_batches_of_one_class_are_compared_with_all_samples() -> None:
    """Of a long sorted loader, 16 batches are kept: of one class alone."""
    labels = torch.arange(4).repeat_interleave(32 * 16)
    shares = shares_of_labels(take(tensors(labels)))
    assert shares is not None
    assert shares.ratio > 20


@pytest.mark.parametrize(
    "labels",
    [torch.arange(320), torch.zeros(320).long(), torch.randn(320), torch.randint(2, (320, 8)).long()],
    ids=["numbers of samples", "one class", "values", "several labels"],
)
def test_what_is_no_label_is_left_out(labels: Tensor) -> None:
    """Entries whose shares say nothing of an order."""
    assert shares_of_labels(take(tensors(labels))) is None


@pytest.mark.parametrize("kind", [np.asarray, lambda x: x.int(), lambda x: x.reshape(-1, 1)])
def test_labels_of_any_type_count(kind: Any) -> None:
    """Arrays, 32-bit integers, a column."""
    shares = shares_of_labels(take([(x, kind(y)) for x, y in tensors(ordered(0.5))]))
    assert shares is not None
    assert shares.ratio > 5


def test_an_order_by_class_is_a_suspicion_though_inputs_tell_nothing_of_it() -> None:
    """Four batches are too few for means; their labels are enough. Shuffled, nothing fires."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    x, y = torch.randn(128, 4), torch.arange(4).repeat_interleave(32)
    model(x)
    named = {
        name: diagnose(model.eval(), list(zip(x[order].split(32), y[order].split(32), strict=True))).named
        for name, order in {"sorted": torch.arange(128), "shuffled": torch.randperm(128)}.items()
    }
    assert "correlated" in named["sorted"]
    assert "correlated" not in named["shuffled"]

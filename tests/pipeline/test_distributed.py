"""distributed.py: a world of one changes nothing; sums and gradients over ranks are exact."""

from pathlib import Path

import pytest
import torch

from pipeline import distributed
from tests.pipeline.rank_program import two_ranks


def test_alone_every_function_returns_its_argument() -> None:
    """So that callers need no second path."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert distributed.rank() == 0
    assert distributed.world_size() == 1
    assert distributed.total(x) is x
    assert torch.equal(distributed.stack_over_ranks(x), x.unsqueeze(0))
    model = torch.nn.Linear(1, 1)
    assert distributed.wrap(model, torch.device("cpu"), same_buffers=True) is model


def test_stacking_is_exact_and_its_gradient_is_the_sum_over_ranks(tmp_path: Path) -> None:
    """Both ranks use both rows: each x gets the gradient of both losses, twice its weight."""
    result = two_ranks(tmp_path, "work")
    assert result.returncode == 0, result.stderr
    # Loss is sum(stacked * w) on both ranks; rank 0's x stands in row 0: gradient 2 * (1, 10).
    assert "[[1.0, 2.0], [2.0, 4.0]] [2.0, 20.0] 3.0" in result.stdout
    assert result.stdout.count("True") == 2


@pytest.mark.parametrize("same_buffers", [True, False])
def test_buffers_are_sent_only_where_ranks_compute_other_ones(
    same_buffers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments of DistributedDataParallel on a CPU and on a GPU."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **more: asked.update(more) or model)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for device, ids in ((torch.device("cpu"), None), (torch.device("cuda", 1), [1])):
        distributed.wrap(torch.nn.Linear(1, 1), device, same_buffers)
        assert asked == {
            "device_ids": ids, "forward_sync_buffers": not same_buffers, "gradient_as_bucket_view": True,
        }  # fmt: skip

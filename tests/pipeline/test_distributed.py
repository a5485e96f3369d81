"""distributed.py: a world of one changes nothing; ranks that die end the command with their name."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import distributed

RANKS = """
import os, sys
import torch
from pipeline import distributed

def work(what):
    distributed.join()
    rank = distributed.rank()
    if what == "die" and rank == 1:
        os._exit(9)
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    stacked = distributed.stack_over_ranks(x * (rank + 1))
    (stacked * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    three = distributed.total(torch.tensor(1.0 + rank)).item()
    if rank == 0:
        print(stacked.tolist(), x.grad.tolist(), three)
    many = torch.arange(distributed.FEW + 1.0)
    print(torch.equal(distributed.total(many), 2 * many))
    distributed.leave()

if __name__ == "__main__":
    from ranks import work as found_by_name
    try:
        distributed.launch(found_by_name, (sys.argv[1],), 2)
    except distributed.RankDied as error:
        sys.exit(f"error: {error}")
"""


def two_ranks(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    """The program above on two ranks."""
    (folder / "ranks.py").write_text(RANKS)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    command = [sys.executable, str(folder / "ranks.py"), what]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}, cwd=folder
    )


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


def test_a_rank_that_dies_ends_the_command_and_is_named(tmp_path: Path) -> None:
    """Within seconds, not after the time-out of a collective."""
    result = two_ranks(tmp_path, "die")
    assert result.returncode == 1
    assert "error: rank 1 ended with exit code 9" in result.stderr


@pytest.mark.parametrize(
    ("failures", "root"),
    [
        ({0: (-signal.SIGABRT, 1), 1: (9, 2)}, 1),  # rank 0 waited for rank 1 in a collective
        ({0: (2, 5), 1: (2, 4)}, 1),
        ({0: (-signal.SIGABRT, 2), 1: (-signal.SIGABRT, 1)}, 1),
        ({0: (-signal.SIGKILL, 1), 1: (-signal.SIGABRT, 0)}, 0),
    ],
)
def test_the_rank_that_failed_first_is_named(failures: dict[int, tuple[int, int]], root: int) -> None:
    """By time, but those that a collective aborted come last."""
    found = {rank: SimpleNamespace(exitcode=code, timestamp=time) for rank, (code, time) in failures.items()}
    assert distributed.root_failure(found) == (root, found[root])


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_a_launcher_is_known_by_both_of_its_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """One variable alone (of a batch system, for example) does not make a launcher."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(variable, "1")
    assert not distributed.launched()


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


@pytest.mark.parametrize(("code", "expected"), [(5, 5), (6, 6), (7, 7), (2, 2), (9, 3), (1, 3), (-9, 3)])
def test_a_rank_that_reports_a_code_of_ours_passes_it_on(code: int, expected: int) -> None:
    """Any other code means only that a rank died."""
    assert distributed.RankDied("x", code).exit_code == expected

"""norms.py: every norm of the dictionary, and BatchNorm over ranks equal to one big batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.models.bodies import masked
from pipeline.norms import NORMS, BatchNorm, NormConfig, moments, norm_factory

RANKS = Path(__file__).with_name("sync_ranks.py")


def on_two_ranks(folder: Path, x: torch.Tensor, sizes: str, mode: str) -> tuple[dict, dict]:
    """What two gloo ranks make of x, and what one big batch makes of it."""
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    torch.save({"x": x, "w": w}, folder / "x.pt")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(RANKS), str(folder), sizes, mode], check=True, timeout=120, capture_output=True)
    ranks = [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]
    layer = nn.BatchNorm2d(x.shape[1], momentum=0.1, eps=1e-5).double()
    whole = x.double().requires_grad_()
    y = layer(whole)
    (y * w.double()).sum().backward()
    one = {"y": y.detach(), "x_grad": whole.grad, "weight_grad": layer.weight.grad, "bias_grad": layer.bias.grad}
    one |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
    two = {name: ranks[0][name] for name in one} | {n: torch.cat([r[n] for r in ranks]) for n in ("y", "x_grad")}
    assert all(torch.equal(ranks[0][n], ranks[1][n]) for n in ("running_mean", "running_var"))
    return two, one


def worst(two: dict, one: dict) -> float:
    """Largest error, in units of the largest value of each tensor (at least 1)."""
    return max(((two[n].double() - one[n]).abs().max() / one[n].abs().max().clamp(min=1)).item() for n in one)


def clips(rows: int) -> torch.Tensor:
    """Rows whose mean (camera distance, 3 m) is ten times their spread, where E[x^2] - E[x]^2 would cancel."""
    x = torch.randn(rows, 6, 8, 5, generator=torch.Generator().manual_seed(rows))
    return 3.0 + 0.3 * x * torch.linspace(0.5, 2, rows).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("sizes", ["5,11", "8,8", "16,0"])
def test_two_uneven_ranks_equal_one_big_batch(tmp_path: Path, sizes: str) -> None:
    """Output, gradients and running statistics, to 1e-6 in float32; a rank may even have no rows."""
    assert worst(*on_two_ranks(tmp_path, clips(16), sizes, "sync")) <= 1e-6


def test_masked_rows_on_two_ranks_equal_one_big_batch_of_real_bodies(tmp_path: Path) -> None:
    """Absent bodies are left out before the layer, so ranks hold as many rows as they have real bodies."""
    x, present = clips(20), torch.arange(20) % 3 != 0
    sizes = f"{int(present[:4].sum())},{int(present[4:].sum())}"
    assert worst(*on_two_ranks(tmp_path, x[present], sizes, "sync")) <= 1e-6


def test_without_sync_two_ranks_are_not_one_big_batch(tmp_path: Path) -> None:
    """Negative control: the equality above is the work of the synchronisation."""
    with pytest.raises(AssertionError):
        on_two_ranks(tmp_path, clips(16), "5,11", "alone")


def test_alone_it_is_torchs_own_batch_norm() -> None:
    """In a world of one, bit for bit."""
    ours, theirs, x = BatchNorm(6, 0.1, 1e-5), nn.BatchNorm2d(6, momentum=0.1), clips(9)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shape", [(4, 16), (4, 16, 8, 5)])
def test_every_norm_keeps_shape_and_passes_gradients(kind: str, shape: tuple[int, ...]) -> None:
    """Over (B, C) and (B, C, T, V)."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = norm_factory(NormConfig(kind=kind))(16)(x)
    y.square().sum().backward()
    assert y.shape == x.shape
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", [kind for kind in NORMS if kind != "none"])
def test_every_norm_normalises(kind: str) -> None:
    """Mean 0 and variance 1 over the whole batch, in training."""
    y = norm_factory(NormConfig(kind=kind))(16)(3 + 2 * torch.randn(64, 16, 8, 8))
    assert abs(y.mean()) < 1e-4
    assert abs(y.var() - 1) < 1e-2


@pytest.mark.parametrize("kind", NORMS)
def test_what_stands_in_an_absent_body_is_irrelevant_when_masked(kind: str) -> None:
    """Filling absent bodies with 1e9 changes nothing."""
    torch.manual_seed(0)
    norm = norm_factory(NormConfig(kind=kind))(16)
    x, present = torch.randn(4, 16, 8, 8, 2), torch.tensor([[True, False], [True, True], [False, True], [True, False]])
    filled = torch.where(present[:, None, None, None, :], x, 1e9)
    assert torch.equal(masked(lambda b, slot: norm(b), x, present), masked(lambda b, slot: norm(b), filled, present))


def test_moments_of_no_rows_are_zero() -> None:
    """A rank without real bodies contributes nothing, and no nan."""
    mean, variance, count = moments(torch.empty(0, 4, 8, 8))
    assert mean.tolist() == variance.tolist() == [0] * 4
    assert count == 0


@pytest.mark.parametrize(("field", "value"), [("kind", "batchnorm"), ("momentum", 0.0), ("momentum", 1.5)])
def test_a_wrong_setting_is_refused_by_name(field: str, value: object) -> None:
    """The message names the setting."""
    with pytest.raises(ValueError, match=f"norm.{field}"):
        NormConfig(**{field: value})

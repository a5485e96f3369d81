"""convert: masked and synchronized batch norms equal those of the unpadded, undivided batch."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.normdoctor.masking import MaskedBatchNorm, convert, counting, fitted

LENGTHS = torch.tensor([7, 3, 5, 1])


@pytest.fixture
def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (4, 3, 7) whose padding is far off, and where something is real (4, 7)."""
    real = torch.arange(7) < LENGTHS[:, None]
    x = torch.where(real[:, None], torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0)), 50.0)
    return x, real


def unpadded(x: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the real places alone, as rows (R, C)."""
    return x.movedim(1, -1)[real]


def test_statistics_are_those_of_the_unpadded_sequences(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Output, running statistics and gradients; a plain layer is off by far (negative control)."""
    x, real = padded
    plain, masked = nn.BatchNorm1d(3), convert(nn.BatchNorm1d(3))
    mine, flat = x.clone().requires_grad_(), unpadded(x, real).requires_grad_()
    with counting(masked, real):
        y = masked(mine)
    expected = plain(flat)
    assert torch.allclose(unpadded(y, real), expected, atol=1e-6)
    assert torch.allclose(masked.running_mean, plain.running_mean, atol=1e-6)
    assert torch.allclose(masked.running_var, plain.running_var, atol=1e-6)
    (unpadded(y, real) ** 3).sum().backward()
    (expected**3).sum().backward()
    assert torch.allclose(unpadded(mine.grad, real), flat.grad, atol=1e-5)
    assert not mine.grad.movedim(1, -1)[~real].any()
    assert not torch.allclose(unpadded(nn.BatchNorm1d(3)(x), real), expected, atol=0.1)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, momentum=None), nn.BatchNorm1d(5, affine=False)]
)
@pytest.mark.parametrize("training", [True, False])
def test_without_a_mask_it_is_torchs_layer_bit_for_bit(layer: nn.BatchNorm1d, training: bool) -> None:
    """Outputs and buffers over two batches; without running statistics, too."""
    plain = copy.deepcopy(layer).train(training)
    masked = convert(copy.deepcopy(plain))
    for seed in range(2):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(masked(x), plain(x))
    assert all(torch.equal(a, b) for a, b in zip(masked.buffers(), plain.buffers(), strict=True))


def test_a_mask_of_all_is_the_plain_layer(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    """With a cumulative average (momentum None), too."""
    x, _ = padded
    plain = nn.BatchNorm1d(3, momentum=None)
    masked = convert(copy.deepcopy(plain))
    for batch in (x, x * 2 + 1):
        with counting(masked, torch.ones(4, dtype=torch.bool)):
            assert torch.allclose(masked(batch), plain(batch), atol=1e-6)
    assert torch.allclose(masked.running_var, plain.running_var)
    assert masked.num_batches_tracked == 2


def test_rows_that_do_not_count_are_left_out() -> None:
    """A mask of rows (N,) fits every layer, behind any convolution and pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(36))
    x, real = torch.randn(6, 2, 8, 8), torch.tensor([True, True, False, True, False, True])
    x[~real] = 100.0
    expected = copy.deepcopy(model)(x[real])
    with counting(converted := convert(model), real):
        assert torch.allclose(converted(x)[real], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "shape", "expected"),
    [
        ([[1, 1, 1, 0, 0, 0]], (1, 2, 6), [1, 1, 1, 0, 0, 0]),
        ([[1, 1, 1, 0, 0, 0]], (1, 2, 3), [1, 1, 0]),  # pooled by 2: a place counts if any that it came from does
        ([[1, 0]], (1, 2, 2, 3), [1, 0]),  # every joint of a frame that counts
    ],
)
def test_a_mask_follows_the_places_of_a_layer(
    mask: list[list[int]], shape: tuple[int, ...], expected: list[int]
) -> None:
    """Along the dimensions after the channels."""
    weight = fitted(torch.tensor(mask, dtype=torch.bool), torch.zeros(shape))
    assert weight.flatten().tolist() == expected
    assert weight.dim() == len(shape)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, 4, 4)])
def test_a_mask_that_does_not_fit_is_rejected_by_shape(mask: torch.Tensor) -> None:
    """Other rows, or more dimensions than the input has."""
    layer = convert(nn.BatchNorm1d(2))
    with counting(layer, mask), pytest.raises(ValueError, match=r"does not fit a layer's input \(2, 2, 4\)"):
        layer(torch.zeros(2, 2, 4))


def test_one_value_that_counts_has_no_variance() -> None:
    """As torch's layer says of a batch of one."""
    layer = convert(nn.BatchNorm1d(2))
    with counting(layer, torch.tensor([True, False])), pytest.raises(ValueError, match="two values per channel"):
        layer(torch.zeros(2, 2))


def test_parameters_state_dict_and_settings_are_kept() -> None:
    """The optimizer's parameters stay, and a state dict loads both ways."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, eps=1e-3, momentum=0.3)).eval()
    weights, state = list(model.parameters()), model.state_dict()
    converted = convert(model)
    assert [id(p) for p in converted.parameters()] == [id(p) for p in weights]
    assert converted.state_dict().keys() == state.keys()
    layer = converted[1]
    assert isinstance(layer, MaskedBatchNorm)
    assert (layer.eps, layer.momentum, layer.training, layer.synchronized) == (1e-3, 0.3, False, False)
    nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).load_state_dict(converted.state_dict())


def test_a_layer_that_is_used_twice_is_replaced_by_one() -> None:
    """And the context ends as it began."""
    norm = nn.BatchNorm1d(3)
    model = convert(nn.ModuleList([norm, nn.Sequential(norm)]))
    assert model[0] is model[1][0]
    with counting(model, torch.ones(2)):
        assert model[0].counts is not None
    assert model[0].counts is None


class WithActivation(nn.BatchNorm1d):
    """A subclass that adds an activation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize and rectify."""
        return super().forward(input).relu()


def test_a_subclass_with_a_forward_pass_of_its_own_is_not_replaced() -> None:
    """Its activation would be lost silently."""
    with pytest.raises(ValueError, match="1 is a WithActivation"):
        convert(nn.Sequential(nn.Linear(1, 2), WithActivation(2)))


RANK = """
import sys, torch, torch.distributed as dist
from torch import nn
from pipeline.normdoctor import convert, counting
rank = int(sys.argv[1])
dist.init_process_group("gloo", f"file://{sys.argv[2]}", rank=rank, world_size=2)
g = torch.Generator().manual_seed(0)
x, real = torch.randn(7, 3, 5, generator=g), torch.rand(7, 5, generator=g) > 0.3
parts = slice(0, 5) if rank == 0 else slice(5, 7)
mine = x[parts].clone().requires_grad_()
layer = convert(nn.BatchNorm1d(3), synchronized=True)
with counting(layer, real[parts]):
    y = layer(mine)
(y.movedim(1, -1)[real[parts]] ** 3).sum().backward()
plain, rows = nn.BatchNorm1d(3), x.movedim(1, -1)[real].requires_grad_()
expected = plain(rows)
(expected ** 3).sum().backward()
before = int(real[:parts.start].sum())
own = slice(before, before + int(real[parts].sum()))
assert torch.allclose(y.movedim(1, -1)[real[parts]], expected[own], atol=1e-6)
assert torch.allclose(layer.running_var, plain.running_var, atol=1e-6)
assert torch.allclose(mine.grad.movedim(1, -1)[real[parts]], rows.grad[own], atol=1e-5)
dist.destroy_process_group()
print("equal")
"""


def test_two_uneven_ranks_share_the_statistics_of_all_rows(tmp_path: Path) -> None:
    """Five and two rows with masks of their own: output, running variance and gradients of one big batch."""
    (tmp_path / "rank.py").write_text(RANK)
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "GLOO_SOCKET_IFNAME": "lo"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    commands = [[sys.executable, str(tmp_path / "rank.py"), str(rank), str(tmp_path / "store")] for rank in range(2)]
    ranks = [subprocess.Popen(command, **both) for command in commands]
    for rank in ranks:
        out, errors = rank.communicate(timeout=120)
        assert "equal" in out, errors


@pytest.mark.parametrize("affine", [True, False])
def test_its_gradients_are_those_of_the_formula(affine: bool) -> None:
    """The first and the second, against finite differences; places that do not count pass some on too."""
    torch.manual_seed(0)
    layer = convert(nn.Sequential(nn.BatchNorm2d(2, affine=affine))).double()
    x = (torch.randn(3, 2, 2, 2, dtype=torch.float64) * 2 + 3).requires_grad_()
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]]).bool()
    own = [p.detach().clone().normal_().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def output(x: torch.Tensor, *own: torch.Tensor) -> torch.Tensor:
        with counting(layer, mask):
            return torch.func.functional_call(layer, dict(zip(names, own, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *own))
    assert torch.autograd.gradgradcheck(output, (x, *own))


def test_autocast_does_not_round_its_moments() -> None:
    """They are sums of products, which autocast would take in bfloat16."""
    torch.manual_seed(0)
    layer, x, mask = convert(nn.Sequential(nn.BatchNorm1d(5))), torch.randn(32, 5, 40) + 7, torch.rand(32, 40) > 0.5
    with counting(layer, mask):
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)

"""Our kernels compute what torch does: on a GPU where there is one, else by Triton's interpreter."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pipeline.kernels import availability
from pipeline.models import ModelConfig, build_model
from pipeline.norms import NormConfig, norm_factory

pytest.importorskip("triton", reason="Triton is not made for this machine")


from pipeline.kernels.graph import aggregate  # noqa: E402
from pipeline.kernels.norm import batch_norm  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # conftest.py asks for the interpreter there
SEEDED, DOUBLE = torch.Generator(), torch.float64
# Several tiles per part of the rows; channels not a power of two, more than in a tile, fewer than in a vector.
SHAPES = [(3, 64, 64, 25), (5, 48, 7, 25), (1, 200, 9, 11), (2, 3, 5, 4), (3, 96, 9, 20)]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=SEEDED).to(DEVICE, dtype)


def distance(found: Tensor, exact: Tensor) -> float:
    """Of all numbers together, in units of their size."""
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_that_of_torch_in_float64(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output, gradients and running statistics; a mean of 30 deviations, which E[x^2] - E[x]^2 would not survive."""
    SEEDED.manual_seed(0)
    monkeypatch.setattr("pipeline.kernels.norm.PARTS", 20)
    channels = shape[1]
    x = (30 + drawn(*shape)).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias, mean, var = *(drawn(channels) for _ in range(3)), drawn(channels).square()
    dy = drawn(*shape).to(dtype)

    def torchs(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, mean, var, weight, bias, True, 0.1, 0.1)

    found, exact = [], []
    for results, function, kind in (
        (found, partial(batch_norm, momentum=0.1, eps=0.1), None),
        (exact, torchs, DOUBLE),
    ):
        given = [part.to(kind or part.dtype, copy=True) for part in (x, weight, bias, mean, var)]
        leaves = [part.requires_grad_() for part in given[:3]]
        y = function(*given)
        y.backward(dy.to(y.dtype))
        results += [y, *given[3:], *(leaf.grad for leaf in leaves)]
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for name, mine, theirs in zip(("y", "mean", "var", "dx", "dweight", "dbias"), found, exact, strict=True):
        rounding = ROUNDING[dtype if name in ("y", "dx") else torch.float32]
        assert distance(mine, theirs) < rounding, name


@pytest.mark.parametrize("sizes", [(7, 75, 25, 64), (33, 60, 20, 24), (3, 75, 25, 100), (40, 12, 4, 8)], ids=str)
def test_messages_are_the_product_with_each_row(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and both gradients, with sides that are not powers of two, and one or several rows per thread block."""
    monkeypatch.setattr("pipeline.kernels.graph.ROW_BLOCKS", 4)
    monkeypatch.setattr("pipeline.kernels.graph.SUM_BLOCKS", 5)
    SEEDED.manual_seed(0)
    rows, inside, outside, channels = sizes
    a, z = drawn(outside, inside).half().float(), drawn(rows, inside, channels, dtype=torch.float16)
    dy = drawn(rows, outside, channels, dtype=torch.float16)
    found, exact = [], []
    for results, function, kind in ((found, aggregate, None), (exact, torch.matmul, DOUBLE)):
        leaves = [part.to(kind or part.dtype, copy=True).requires_grad_() for part in (a, z)]
        y = function(*leaves)
        y.backward(dy.to(y.dtype))
        results += [y, *(leaf.grad for leaf in leaves)]
    for mine, theirs in zip(found, exact, strict=True):
        assert distance(mine, theirs) < 5e-4


def test_a_second_derivative_is_refused() -> None:
    """Rather than wrong."""
    x = drawn(2, 4, 3, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    one = torch.ones(4, device=DEVICE)
    y = batch_norm(x, one, one, one.clone(), one.clone(), 0.1, 1e-5)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def both_ways(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module], *given: Tensor
) -> tuple[int, dict[str, Tensor], dict[str, Tensor]]:
    """Return how often kernels ran, and the results of one step by kernels and by torch: output, gradients, buffers."""
    asked: list[bool] = []
    left = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for wherever in (True, False):

        def takes(x: Tensor, wherever: bool = wherever) -> bool:
            asked.append(wherever and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
            return asked[-1]

        monkeypatch.setattr(availability, "use_kernels", takes)
        torch.manual_seed(0)
        network = make().to(DEVICE, memory_format=torch.channels_last)
        y = network(*given)
        (y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum().backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        left.append({"y": y.detach()} | gradients | dict(network.named_buffers()))
    return sum(asked), *left


def test_a_norm_by_kernels_is_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it leaves behind, its count of batches too."""
    SEEDED.manual_seed(0)
    x = drawn(5, 48, 7, 25).contiguous(memory_format=torch.channels_last)
    asked, by_kernels, by_torch = both_ways(monkeypatch, lambda: norm_factory(NormConfig())(48), x)
    assert asked == 1
    torch.testing.assert_close(by_kernels, by_torch, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_graph_network_by_kernels_is_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, gradients and running statistics: ten blocks with messages and three norms, three past them."""
    SEEDED.manual_seed(0)
    x, present = drawn(2, 3, 4, 5, 2), torch.ones(2, 2, 4, dtype=torch.bool, device=DEVICE)
    settings = ModelConfig("stgcn", 0.0, 0.125), NormConfig(), 4, 5, 4, tuple((v // 2, v) for v in range(1, 5))
    asked, by_kernels, by_torch = both_ways(monkeypatch, lambda: build_model(*settings), x, present)
    assert asked == 10 * 4 + 3
    torch.testing.assert_close(by_kernels, by_torch, rtol=1e-3, atol=1e-4)


class FakeFeatures:
    """Features with a device, type, order and size, but without data."""

    def __init__(self, **changes: object) -> None:
        self.is_cuda, self.dtype, self.order = True, torch.bfloat16, torch.channels_last
        self.dims, self.elements = 4, 2**24
        vars(self).update(changes)

    def dim(self) -> int:
        return self.dims

    def numel(self) -> int:
        return self.elements

    def is_contiguous(self, memory_format: torch.memory_format) -> bool:
        return self.order == memory_format


def test_large_features_on_a_gpu_take_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Triton can compile them; the control of the test below."""
    for why, taken in (("", True), ("no compiler", False)):
        monkeypatch.setattr(availability, "unavailable_reason", lambda why=why: why)
        for dtype in (torch.bfloat16, torch.float16):
            assert availability.use_kernels(FakeFeatures(dtype=dtype)) is taken


@pytest.mark.parametrize(
    "change",
    [
        {"is_cuda": False},
        {"dtype": torch.float32},
        {"order": torch.contiguous_format},
        {"elements": 2**24 - 1},
        {"dims": 3},
    ],
    ids=str,
)
def test_other_features_do_not(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another device, type or memory order, small, or not in four dimensions."""
    monkeypatch.setattr(availability, "unavailable_reason", str)
    assert not availability.use_kernels(FakeFeatures(**change))


def test_compiled_code_keeps_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler fuses them."""
    monkeypatch.setattr(availability, "unavailable_reason", str)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not availability.use_kernels(FakeFeatures())


def no_compiler(*_: object) -> None:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")


def test_the_reason_why_kernels_cannot_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler, an old GPU, no Triton: a reason of one line, never an exception."""
    ask = availability.unavailable_reason.__wrapped__
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert ask() == "this GPU has no bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch, "ones", lambda *sizes, **_: torch.zeros(sizes, device=DEVICE))
    assert ask() == ""
    monkeypatch.setattr("pipeline.kernels.graph.aggregate", no_compiler)
    assert ask() == "RuntimeError: Failed to find C compiler."
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    assert ask() == "Triton is not installed"

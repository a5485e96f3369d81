"""Drop-in batch norms for any model: leave out what does not count, and cover the rows of all ranks.

    model = convert(model)
    with counting(model, real_NT):
        loss = criterion(model(x), y)

People pad sequences, point clouds and bodies to one size. The padding enters the statistics of `nn.BatchNorm*d`, which
take no mask (pytorch#70529, #81985).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from .memory import is_plain
from .moments import per_channel, wide
from .ranks import SumOverRanks, are_several

POOLS = {
    1: nn.functional.adaptive_max_pool1d,
    2: nn.functional.adaptive_max_pool2d,
    3: nn.functional.adaptive_max_pool3d,
}


class MaskedBatchNorm(_BatchNorm):
    """A batch norm whose statistics cover only what counts, over all ranks where it is synchronized.

    Parameters, buffers and their names are those of `nn.BatchNorm*d`: state dicts fit both ways. Without a mask and
    with one rank it runs torch's own kernel.

    Attributes:
        synchronized: Whether statistics cover the rows of all ranks. Ranks may hold different numbers of them.
        counts: What counts in the next forward passes, as `counting` sets it; None: everything.

    Example:
        >>> import torch, normdoctor
        >>> layer = normdoctor.MaskedBatchNorm(3)
        >>> with normdoctor.counting(layer, torch.tensor([True, True, False])):
        ...     y = layer(torch.randn(3, 3, 7))
    """

    def __init__(self, *arguments: Any, synchronized: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.synchronized = synchronized
        self.counts: Tensor | None = None

    @classmethod
    def of(cls, layer: _BatchNorm, synchronized: bool) -> MaskedBatchNorm:
        """Return a layer with the settings, the mode, and the very parameters and buffers of another."""
        new = cls(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
            synchronized=synchronized,
        )
        new._parameters.update(layer._parameters)
        new._buffers.update(layer._buffers)
        return new.train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"the layer takes (N, {self.num_features}, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize input (N, C, ...); rows and places that do not count are normalized like the others.

        Raises:
            ValueError: The mask does not fit the input, or fewer than two values per channel count.
        """
        over_ranks = self.synchronized and are_several()
        if not self._by_batch or (self.counts is None and not over_ranks):
            return super().forward(input)
        self._check_input_dim(input)
        x = wide(input)
        weight = None if self.counts is None else fitted(self.counts, x)
        if over_ranks or weight is None or torch.compiler.is_compiling():
            mean_C, variance_C, count = _moments(x, weight, over_ranks)
            y = _normalized(x, mean_C, variance_C, self.weight, self.bias, self.eps)
        else:
            y, mean_C, variance_C, count_ = _Masked.apply(x, self.weight, self.bias, weight, self.eps)
            count = float(count_)
        if count < 2:
            raise ValueError(f"batch norm needs two values per channel that count, got {count:.0f}: use larger batches")
        self._remember(mean_C.detach(), variance_C.detach() * (count / (count - 1)))
        return y.to(input.dtype)

    @property
    def _by_batch(self) -> bool:
        return self.training or self.running_mean is None

    def _remember(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased_C.to(self.running_var), momentum)


def convert(model: nn.Module, *, synchronized: bool = False) -> nn.Module:
    """Replace every batch norm of a model by a `MaskedBatchNorm` with the same parameters and buffers.

    Args:
        model: Any module. Its batch norms are replaced in place; parameters stay the same objects, so that an
            optimizer keeps them.
        synchronized: Let statistics cover the rows of all ranks of torch.distributed. `nn.SyncBatchNorm` is replaced
            by a synchronized layer in any case.

    Returns:
        The model; a new layer where the model itself is a batch norm.

    Raises:
        ValueError: A layer is of a subclass with a forward pass of its own, which a replacement would lose.

    Example:
        >>> import torch, normdoctor
        >>> model = normdoctor.convert(torch.nn.Sequential(torch.nn.Conv1d(3, 8, 5), torch.nn.BatchNorm1d(8)))
        >>> real = torch.tensor([[True] * 16, [True] * 9 + [False] * 7])
        >>> with normdoctor.counting(model, real):
        ...     y = model(torch.randn(2, 3, 16))
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, MaskedBatchNorm):
            if not is_plain(layer):
                raise ValueError(
                    f"{name or 'the model'} is a {type(layer).__name__}, whose own forward pass a masked batch norm "
                    "would lose: replace it by a plain batch norm and what it adds first"
                )
            replaced[layer] = MaskedBatchNorm.of(layer, synchronized or isinstance(layer, SyncBatchNorm))
    return exchanged(model, replaced)


def exchanged(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules in every place that holds them; return the model, or what replaces it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


@contextmanager
def counting(model: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Let the statistics of a converted model cover only what counts within the context.

    Args:
        model: What `convert` returned, also inside DDP.
        mask: True where something counts: rows (N,), or places (N, ...) along the dimensions after the channels. Where
            a layer sees fewer places (after pooling or a stride), one counts if any that it came from does. None:
            everything counts.

    Example:
        >>> import torch, normdoctor
        >>> model = normdoctor.convert(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
        >>> with normdoctor.counting(model, torch.tensor([True, True, False])):
        ...     y = model(torch.tensor([[1.0] * 3, [3.0] * 3, [99.0] * 3]))
        >>> y[:2, 0].round().tolist()
        [-1.0, 1.0]
    """
    layers = [layer for layer in model.modules() if isinstance(layer, MaskedBatchNorm)]
    before = [layer.counts for layer in layers]
    for layer in layers:
        layer.counts = mask
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.counts = old


def fitted(mask: Tensor, x: Tensor) -> Tensor:
    """Return a mask (N,) or (N, ...) as weights that broadcast over x (N, C, ...): (N, 1, ...), 1 where x counts.

    Raises:
        ValueError: It has other rows than x, or more dimensions.
    """
    weight = mask.to(x).unsqueeze(1)
    places, seen = weight.shape[2:], x.shape[2 : 2 + weight.dim() - 2]
    if len(weight) != len(x) or len(places) > x.dim() - 2 or len(places) > max(POOLS):
        raise ValueError(
            f"the mask {tuple(mask.shape)} does not fit a layer's input {tuple(x.shape)}: it needs one row per sample, "
            "and at most the dimensions after the channels"
        )
    if places != seen:
        weight = POOLS[len(places)](weight, tuple(seen))
    return weight.reshape(*weight.shape, *[1] * (x.dim() - weight.dim()))


class _Masked(torch.autograd.Function):
    """Batch norm by the moments of what counts, in as few passes over memory as torch's own operations allow."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean_C, variance_C, count = _moments(x, weight, over_ranks=False)
        y = nn.functional.batch_norm(x, mean_C, variance_C, scale, shift, eps=eps)
        counted = torch.tensor(count)
        ctx.save_for_backward(x, scale, shift, weight, mean_C, variance_C)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean_C, variance_C, counted)
        return y, mean_C, variance_C, counted

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # noqa: D102
        x, scale, shift, weight, mean_C, variance_C = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is differentiated too
            moments_of_x = _moments(x, weight, over_ranks=False)[:2]
            y = _normalized(x, *moments_of_x, scale, shift, ctx.eps)
            wanted = [
                one if needed else None for one, needed in zip((x, scale, shift), ctx.needs_input_grad, strict=False)
            ]
            found = iter(torch.autograd.grad(y, [one for one in wanted if one is not None], dy, create_graph=True))
            return (*(None if one is None else next(found) for one in wanted), None, None)
        dx, dscale_C, dshift_C = torch.ops.aten.native_batch_norm_backward(
            dy, x, scale, mean_C, variance_C, None, None, False, ctx.eps, [True, True, True]
        )
        # What each value that counts adds through the mean and the variance.
        inverse_C = torch.rsqrt(variance_C + ctx.eps)
        per_value_C = (inverse_C if scale is None else inverse_C * scale) / ctx.count
        by_mean, by_variance = (
            per_channel(per_value_C * dshift_C, x),
            per_channel(per_value_C * inverse_C * dscale_C, x),
        )
        dx.addcmul_(torch.addcmul(by_mean, x - per_channel(mean_C, x), by_variance), weight, value=-1)
        return dx, None if scale is None else dscale_C, None if shift is None else dshift_C, None, None


def _normalized(
    x: Tensor, mean_C: Tensor, variance_C: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * scale + shift, by operations that can be differentiated twice."""
    y = (x - per_channel(mean_C, x)) * per_channel(torch.rsqrt(variance_C + eps), x)
    return y if scale is None or shift is None else y * per_channel(scale, x) + per_channel(shift, x)


def _summed(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sum per channel (C,) of x (N, C, ...); weight (N, 1, ...) broadcasts over x."""
    if x.is_cuda:  # matrix products may round to TF32 there
        return (x * weight).sum([0, *range(2, x.dim())])
    places_NP1 = weight.expand(len(x), 1, *x.shape[2:]).reshape(len(x), -1, 1)
    with torch.autocast(x.device.type, enabled=False):  # it would multiply in half precision
        return (x.reshape(len(x), x.shape[1], -1) @ places_NP1).squeeze(2).sum(0)


def _moments(x: Tensor, weight: Tensor | None, over_ranks: bool) -> tuple[Tensor, Tensor, float]:
    """Mean (C,), biased variance (C,) and number of values per channel of what counts in x (N, C, ...), on all ranks.

    The variance comes from differences to the mean of all ranks: E[x^2] - E[x]^2 would cancel in float32.
    """
    ones = x.new_ones([1] * x.dim()) if weight is None else weight
    count = ones.expand(len(x), 1, *x.shape[2:]).sum()
    sums = torch.cat([_summed(x, ones), count.unsqueeze(0)])
    sums = SumOverRanks.apply(sums) if over_ranks else sums
    total = sums[-1].detach().clamp(min=1)
    mean_C = sums[:-1] / total
    squares_C = _summed((x - per_channel(mean_C, x)).square(), ones)
    squares_C = SumOverRanks.apply(squares_C) if over_ranks else squares_C
    return mean_C, squares_C / total, float(sums[-1].detach())

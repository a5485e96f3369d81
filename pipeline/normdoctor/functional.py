"""Calls of `F.batch_norm` on the running statistics of a layer that is never called itself, or on a part of them.

Slimmable networks and functional models write their forward so. Such calls are intercepted: no layer's forward begins
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from .memory import Memory, memory_of

# Names of the arguments, in order.
ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    ),
    torch.batch_norm: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled",
    ),
}  # fmt: skip


class Call(NamedTuple):
    """One call of `F.batch_norm`, with its default arguments."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class Intercepted(TorchFunctionMode):
    """A context in which a function is asked for the output of each call of `F.batch_norm`; None: torch's own."""

    def __init__(self, answer: Callable[[Call], Tensor | None]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ask for the output."""
        named = kwargs or {}
        if func in ARGUMENTS:
            given = dict(zip(ARGUMENTS[func], args, strict=False)) | named
            output = self.answer(Call(**{name: given[name] for name in Call._fields if name in given}))
            if output is not None:
                return output
        return func(*args, **named)


def pointer(tensor: Tensor | None) -> int:
    """Return what tells whose memory a tensor is a view of."""
    return 0 if tensor is None else tensor.untyped_storage().data_ptr()


def parts_used(model: nn.Module, forward: Callable[[], Any]) -> dict[nn.Module, Memory]:
    """Return the batch norms whose statistics a forward pass uses without calling them, and which of their entries.

    Args:
        model: A model in eval mode.
        forward: Puts one batch through it.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    owners = {pointer(layer.running_mean): layer for layer in layers}
    called: set[nn.Module] = set()
    found: dict[nn.Module, Memory] = {}

    def look(call: Call) -> None:
        layer: Any = owners.get(pointer(call.running_mean))
        mean = call.running_mean
        if layer is None or mean is None or layer in called or pointer(call.running_var) != pointer(layer.running_var):
            return
        if mean.is_contiguous() and not call.training:
            first = mean.storage_offset() - layer.running_mean.storage_offset()
            found.setdefault(layer, Memory(part=(first, mean.numel()), momentum=call.momentum))

    handles = [layer.register_forward_pre_hook(lambda layer, _: called.add(layer)) for layer in layers]
    try:
        with Intercepted(look):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {layer: memory for layer, memory in found.items() if layer not in called}


def owners_of_parts(layers: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """Return the names of layers that are used without being called, by their memory and their channels that act."""
    noted = ((name, layer, memory_of(layer)) for name, layer in layers.items())
    return {
        (pointer(layer.running_mean), memory.part[1]): name for name, layer, memory in noted if memory and memory.part
    }

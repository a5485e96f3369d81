"""Batch norms as they are found in a model: what they remember, and with which settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .memory import Memory, memory_of
from .moments import Moments
from .sites import batch_norms

# A channel is drowned where its variance is below EPS_FACTOR x eps; a layer, where EPS_SHARE of its channels are.
EPS_FACTOR, EPS_SHARE = 10.0, 0.5
# Default of Keras and TensorFlow.
LARGER_EPS = 1e-3
# Initial values that count for less than this share are forgotten.
FORGOTTEN = 0.05


@dataclass(frozen=True)
class Layer:
    """One batch norm as it was found."""

    running_mean_C: Tensor | None
    running_variance_C: Tensor | None
    scale_C: Tensor | None
    momentum: float | None
    updates: int
    """Updates of the running statistics (num_batches_tracked)."""
    eps: float

    per_sample: bool = False
    """True if training normalizes each sample by its own statistics (an instance norm)."""

    @classmethod
    def of(cls, layer: Any) -> Layer:
        """Copy what a layer holds; what it does not have is None, 0 updates or torch's default eps."""
        memory = memory_of(layer) or Memory()
        found = memory.running(layer)
        scale = getattr(layer, "weight", None)
        tracked = getattr(layer, "num_batches_tracked", None)
        momentum = getattr(layer, "momentum", None) if memory.momentum is None else memory.momentum
        return cls(
            None if found is None else found[0],
            None if found is None else found[1],
            memory.used(scale.detach().clone()) if isinstance(scale, Tensor) else None,
            momentum,
            0 if tracked is None else int(tracked),
            getattr(layer, "eps", 1e-5),
            memory.per_sample,
        )

    @property
    def running(self) -> Moments | None:
        """Its running statistics; None where it keeps none."""
        if self.running_mean_C is None or self.running_variance_C is None:
            return None
        return Moments(self.running_mean_C.double(), self.running_variance_C.double(), 1.0)

    @property
    def dtype(self) -> torch.dtype | None:
        """Number type of its running statistics; None where it keeps none."""
        return None if self.running_mean_C is None else self.running_mean_C.dtype

    @property
    def window(self) -> float:
        """Updates that the running statistics remember: 1 / momentum, at most all of them."""
        return min(1 / self.momentum, self.updates) if self.momentum else self.updates

    @property
    def settled(self) -> bool:
        """True if the initial values are forgotten by now."""
        return not self.momentum or (1 - self.momentum) ** self.updates < FORGOTTEN

    @property
    def drowned_share(self) -> float:
        """Share of channels whose running variance is below EPS_FACTOR x eps."""
        return self.share_below(self.eps)

    @property
    def is_thin(self) -> bool:
        """True if its output would be another one with LARGER_EPS."""
        return self.eps < LARGER_EPS and self.share_below(LARGER_EPS) >= EPS_SHARE

    def share_below(self, eps: float) -> float:
        """Return the share of channels whose scale an eps decides: a running variance below EPS_FACTOR x eps."""
        variance = self.running_variance_C
        if variance is None or not len(variance):
            return 0.0
        return (variance < EPS_FACTOR * eps).double().mean().item()


def running_moments(state: Mapping[str, Tensor], name: str) -> Moments | None:
    """Return the running statistics of layer `name` in a state or a table of buffers, on the CPU; None if absent."""
    mean, variance = (state.get(key_of(name, buffer)) for buffer in ("running_mean", "running_var"))
    return None if mean is None or variance is None else Moments(mean.cpu().double(), variance.cpu().double(), 1.0)


def key_of(name: str, entry: str) -> str:
    """Return the name that an entry of layer `name` has in a model's state; the model itself has the name ""."""
    return f"{name}.{entry}" if name else entry


def decayed_scales(model: nn.Module, optimizer: torch.optim.Optimizer | Iterable[dict[str, Any]]) -> frozenset[str]:
    """Return the names of the batch norms whose scale is in a parameter group with weight decay.

    Args:
        model: Any module.
        optimizer: Its optimizer, or the parameter groups of one.

    Returns:
        Names as `model.named_modules()` gives them, for `History.decayed`.

    Example:
        >>> import torch, normdoctor
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        >>> normdoctor.decayed_scales(model, torch.optim.SGD(model.parameters(), 0.1, weight_decay=1e-4))
        frozenset({'1'})
    """
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    decayed = {id(p) for group in groups if group.get("weight_decay") for p in group["params"]}
    return frozenset(
        name for name, layer in batch_norms(model).items() if id(getattr(layer, "weight", None)) in decayed
    )


def quantized_layers(model: nn.Module) -> list[str]:
    """Return the layers that torch.ao quantized; batch norms in front of them are folded into their weights."""
    return [name for name, module in model.named_modules() if ".quantized" in type(module).__module__]

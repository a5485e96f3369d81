"""Shared parts of the reference forwards: weights by name, and the bodies of a clip, by torch's functions alone.

Nothing here or in the other reference_*.py calls a layer of pipeline.models or pipeline.norms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


@dataclass(frozen=True)
class Weights:
    """A state dict, with functions that use its entries by name."""

    state: dict[str, Tensor]
    training: bool
    per_person: bool = False

    def conv(
        self, name: str, x: Tensor, padding: tuple[int, int] = (0, 0), stride: int = 1, dilation: int = 1
    ) -> Tensor:
        """Convolution with a stride and dilation in time."""
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride=(stride, 1), padding=padding, dilation=(dilation, 1))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """x W^T + b."""
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        """BatchNorm by the batch's statistics in training, by the running ones in evaluation."""
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            mean, variance = x.mean(axes), x.var(axes, correction=0)
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        xhat = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + EPS)
        return xhat * weight.reshape(shape) + bias.reshape(shape)

    def slot_norm(self, name: str, x: Tensor, slot: int) -> Tensor:
        """The norm of a place in the trunk: that of the body slot in per_person, else the only one."""
        return self.norm(f"{name}.{slot if self.per_person else 0}", x)


def over_bodies(
    trunk: Callable[[Tensor, int], Tensor], x_NCTVM: Tensor, present_NM: Tensor, persons: str, mean: bool
) -> Tensor:
    """Features of each clip: the maximum (or mean) over its two bodies, in `masked` over those that are present."""
    clips = range(len(x_NCTVM))
    if persons == "masked":
        rows = [(n, m) for n in clips for m in (0, 1) if present_NM[n, m]]
        features = trunk(torch.stack([x_NCTVM[n, ..., m] for n, m in rows]), 0)
        own = [torch.stack([features[i] for i, (clip, _) in enumerate(rows) if clip == n]) for n in clips]
    elif persons == "fold":
        features = trunk(torch.cat([x_NCTVM[..., 0], x_NCTVM[..., 1]]), 0)
        own = [torch.stack([features[n], features[n + len(x_NCTVM)]]) for n in clips]
    else:
        first, second = trunk(x_NCTVM[..., 0], 0), trunk(x_NCTVM[..., 1], 1)
        own = [torch.stack([first[n], second[n]]) for n in clips]
    return torch.stack([bodies.mean(0) if mean else bodies.amax(0) for bodies in own])

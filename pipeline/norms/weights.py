"""Standardization of the weights of the convolution or linear layer in front of a norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class WeightStandardization(nn.Module):
    """W <- (W - mean) / sqrt(var + eps), of each output unit over its inputs.

    Qiao et al. 2019, arXiv 1903.10520.
    """

    def __init__(self, weight: Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """Standardize a weight (out, in, ...)."""
        variance, mean = torch.var_mean(weight.flatten(1), dim=1, correction=0)
        shape = (-1, *[1] * (weight.dim() - 1))
        return (weight - mean.reshape(shape)) * torch.rsqrt(variance + self.eps).reshape(shape)


def standardize(layer: nn.Module, form: type[WeightStandardization]) -> nn.Module:
    """Standardize the weight of a convolution or linear layer at each use; the layer is changed in place."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", form(weight))
    return layer

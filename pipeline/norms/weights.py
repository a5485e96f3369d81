"""Normalization of the weights in front of a norm's place, and the gradient clipping that replaces a norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# sqrt(2 / (1 - 1/pi)): what a ReLU takes from the standard deviation of a normal variable is given back by the weights.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class WeightStandardization(nn.Module):
    """W <- (W - mean) / sqrt(var + eps), of each output unit over its inputs.

    Qiao et al. 2019, arXiv 1903.10520.
    """

    def __init__(self, weight: Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """Weight (out, in, ...) standardised."""
        variance, mean = torch.var_mean(weight.flatten(1), dim=1, correction=0)
        shape = (-1, *[1] * (weight.dim() - 1))
        return (weight - mean.reshape(shape)) * torch.rsqrt(variance + self.eps).reshape(shape)


class ScaledWeightStandardization(WeightStandardization):
    """W <- gain * gamma * (W - mean) / (sqrt(var + eps) * sqrt(fan_in)), gain learnt per output unit, gamma the ReLU's.

    So a unit's output has the variance of its input, without any activation being normalised. Brock et al. 2021,
    arXiv 2101.08692, equation 1.
    """

    def __init__(self, weight: Tensor, eps: float = 1e-6) -> None:
        super().__init__(weight, eps)
        self.gain = nn.Parameter(torch.ones(len(weight)))
        self.scale = RELU_GAIN / math.sqrt(weight[0].numel())

    def forward(self, weight: Tensor) -> Tensor:
        """Weight (out, in, ...) standardised and scaled."""
        return super().forward(weight) * (self.gain * self.scale).reshape(-1, *[1] * (weight.dim() - 1))


def standardized(layer: nn.Module, form: type[WeightStandardization]) -> nn.Module:
    """The convolution or linear layer with its weight replaced by a standardised one, computed at each use."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    parametrize.register_parametrization(layer, "weight", form(weight))
    return layer


def clip_gradients(model: nn.Module, factor: float, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping of the layers with scaled weights: g <- g * min(1, factor * max(|w|, eps) / |g|).

    Norms are those of each output unit; of a vector (gain, bias), the whole. Brock et al. 2021, arXiv 2102.06171,
    equation 3; the last layer, which has no scaled weights, is left alone as in the paper. Call it between backward
    and step.
    """
    for layer in model.modules():
        if not any(isinstance(module, ScaledWeightStandardization) for module in _forms(layer)):
            continue
        for parameter in layer.parameters():
            if parameter.grad is not None:
                bound = factor * _unit_norm(parameter.detach()).clamp(min=eps)
                length = _unit_norm(parameter.grad).clamp(min=1e-12)
                parameter.grad.mul_((bound / length).clamp(max=1))


def _forms(layer: nn.Module) -> list[nn.Module]:
    return list(getattr(layer.parametrizations, "weight", [])) if parametrize.is_parametrized(layer, "weight") else []


def _unit_norm(x: Tensor) -> Tensor:
    if x.dim() <= 1:
        return x.norm()
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))

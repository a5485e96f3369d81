"""A network without norms: scaled weight standardization and adaptive gradient clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.norms.identity import no_layer
from pipeline.norms.kind import Kind
from pipeline.norms.weights import WeightStandardization

# sqrt(2 / (1 - 1/pi)): inverse of the standard deviation of a ReLU of a standard normal variable.
RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))


class ScaledWeightStandardization(WeightStandardization):
    """W <- gain * gamma * (W - mean) / (sqrt(var + eps) * sqrt(fan_in)), gain learnt per output unit, gamma the ReLU's.

    The output of a unit then has the variance of its input, although no activation is normalized. Brock et al. 2021,
    arXiv 2101.08692, equation 1.
    """

    def __init__(self, weight: Tensor, eps: float = 1e-6) -> None:
        super().__init__(weight, eps)
        self.gain = nn.Parameter(torch.ones(len(weight)))
        self.scale = RELU_GAIN / math.sqrt(weight[0].numel())

    def forward(self, weight: Tensor) -> Tensor:
        """Standardize and scale a weight (out, in, ...)."""
        return super().forward(weight) * (self.gain * self.scale).reshape(-1, *[1] * (weight.dim() - 1))


def clip_gradients(model: nn.Module, factor: float, eps: float = 1e-3) -> None:
    """Clip gradients adaptively in the layers with scaled weights: g <- g * min(1, factor * max(|w|, eps) / |g|).

    Norms are taken per output unit; of a vector (gain, bias), over the whole. Brock et al. 2021, arXiv 2102.06171,
    equation 3. As in the paper the last layer, which has no scaled weights, is not clipped. Call it between backward
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


NF = Kind(
    no_layer,
    ("clip",),
    weights=ScaledWeightStandardization,
    title="scaled standardized weights and adaptive gradient clipping (Brock et al. 2021, arXiv 2102.06171)",
)

"""Reference forward of `cnn`: three times (3x3 convolution, BatchNorm, ReLU, 2x2 max-pool), then two linear layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.pipeline.models.reference_layers import Weights, over_bodies


def cnn(weights: Weights, x_NCTVM: Tensor, present_NMT: Tensor, persons: str) -> Tensor:
    """Logits."""

    def trunk(x: Tensor, slot: int) -> Tensor:
        for i in range(3):
            x = weights.conv(f"convolutions.{i}", x, padding=(1, 1))
            x = F.max_pool2d(torch.relu(weights.slot_norm(f"norms.{i}", x, slot)), 2)
        return x

    features = over_bodies(trunk, x_NCTVM, present_NMT.any(2), persons, mean=False)
    hidden = torch.relu(weights.norm("hidden_norm", weights.linear("hidden", features.flatten(1))))
    return weights.linear("classify", hidden)

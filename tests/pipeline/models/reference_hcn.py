"""Reference forward of `hcn` (Li et al. 2018, arXiv 1804.06055, figure 3), with a norm and ReLU behind every layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.pipeline.models.reference_layers import Weights, over_bodies


def motion(x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
    """x[t + 1] - x[t] where the body is present in both frames, else zero."""
    y = torch.zeros_like(x_NCTVM)
    clips, _, frames, _, bodies = x_NCTVM.shape
    for n in range(clips):
        for m in range(bodies):
            for t in range(frames - 1):
                if present_NMT[n, m, t] and present_NMT[n, m, t + 1]:
                    y[n, :, t, :, m] = x_NCTVM[n, :, t + 1, :, m] - x_NCTVM[n, :, t, :, m]
    return y


def branch(weights: Weights, name: str, x: Tensor, slot: int) -> Tensor:
    """conv1 and conv2 per joint, then conv3 and conv4 with the joints as channels, each of these with a max-pool."""

    def layer(i: int, x: Tensor, padding: tuple[int, int]) -> Tensor:
        x = weights.conv(f"{name}.convolutions.{i}", x, padding)
        return torch.relu(weights.slot_norm(f"{name}.norms.{i}", x, slot))

    x = layer(1, layer(0, x, (0, 0)), (1, 0))
    x = x.permute(0, 3, 2, 1)
    x = F.max_pool2d(layer(2, x, (1, 1)), 2)
    return F.max_pool2d(layer(3, x, (1, 1)), 2)


def hcn(weights: Weights, x_NCTVM: Tensor, present_NMT: Tensor, persons: str) -> Tensor:
    """Logits."""
    both = torch.cat([x_NCTVM, motion(x_NCTVM, present_NMT)], dim=1)

    def trunk(x: Tensor, slot: int) -> Tensor:
        y = torch.cat([branch(weights, "branches.0", x[:, :3], slot), branch(weights, "branches.1", x[:, 3:], slot)], 1)
        for i in range(2):
            y = torch.relu(weights.slot_norm(f"norms.{i}", weights.conv(f"convolutions.{i}", y, (1, 1)), slot))
            y = F.max_pool2d(y, (2, 2 if y.shape[-1] > 1 else 1))
        return y

    features = over_bodies(trunk, both, present_NMT.any(2), persons, mean=False)
    hidden = torch.relu(weights.norm("hidden_norm", weights.linear("hidden", features.flatten(1))))
    return weights.linear("classify", hidden)

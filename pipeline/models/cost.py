"""Cost of a network: number of parameters, and floating-point operations per clip."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data import BODIES


def cost(model: nn.Module, frames: int, joints: int, channels: int = 3) -> dict[str, int]:
    """Count parameters and the operations of one forward pass; the model is not changed.

    A multiply-add counts as two operations, as in torch's counter; many papers count it once. Only matrix products and
    convolutions are counted.

    Returns:
        `params`; `flops` of one clip with two bodies; `flops_one_body` of one clip with one body.
    """
    device = next(model.parameters()).device
    copied = copy.deepcopy(model).eval()
    result = {"params": sum(p.numel() for p in model.parameters())}
    for name, bodies in (("flops", BODIES), ("flops_one_body", 1)):
        present_NMT = torch.zeros(1, BODIES, frames, dtype=torch.bool, device=device)
        present_NMT[:, :bodies] = True
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            copied(torch.zeros(1, channels, frames, joints, BODIES, device=device), present_NMT)
        result[name] = int(counter.get_total_flops())
    return result


def describe(costs: dict[str, int]) -> str:
    """Return the cost in one line."""
    return (
        f"{costs['params'] / 1e6:.3f} M parameters, {costs['flops'] / 1e9:.3f} GFLOPs per clip of two bodies "
        f"({costs['flops_one_body'] / 1e9:.3f} of one)"
    )

"""Reference forwards of `stgcn` (ST-GCN++, arXiv 2205.09443) and `ctrgcn` (CTR-GCN, arXiv 2107.12213)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.pipeline.models.reference_layers import Weights, over_bodies

STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
Graph = Callable[[Weights, str, Tensor], Tensor]  # weights, name of a block, x_BCTV -> y_BCTV


def adjacency(bones: tuple[tuple[int, int], ...], joints: int) -> Tensor:
    """A[k][v, w]: from v to w; k: w itself, its parent, the mean of its children."""
    a = torch.zeros(3, joints, joints)
    for w in range(joints):
        a[0, w, w] = 1
        children = [child for parent, child in bones if parent == w]
        for child in children:
            a[2, child, w] = 1 / len(children)
    for parent, child in bones:
        a[1, parent, child] = 1
    return a.double()  # 1/3 as float32 has it, which is what the buffer holds


def adaptive_graph(a_KVV: Tensor) -> Graph:
    """Sum over k of W_k x (A_k + B_k), B learnt: B_k[v, w] is column 3 v + k of row w."""

    def spatial(weights: Weights, name: str, x: Tensor) -> Tensor:
        parts = weights.conv(f"{name}.convolution", x).chunk(3, dim=1)
        learnt = weights.state[f"{name}.learnt_WP"]
        return sum(torch.einsum("bctv,vw->bctw", parts[k], a_KVV[k] + learnt[:, k::3].T) for k in range(3))

    return spatial


def refined_graph(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Sum over k of (A_k + alpha_k M_k tanh(theta_k x_v - phi_k x_w)) applied to W_k x, per channel."""
    state, values = weights.state, weights.conv(f"{name}.value", x).chunk(3, dim=1)
    total = torch.zeros_like(values[0])

    def pointwise(layer: str, k: int, y: Tensor) -> Tensor:
        weight, bias = state[f"{name}.{layer}.weight"].flatten(1).chunk(3)[k], state[f"{name}.{layer}.bias"].chunk(3)[k]
        return torch.einsum("oi,bi...->bo...", weight, y) + bias.reshape(1, -1, *[1] * (y.dim() - 2))

    for k in range(3):
        theta, phi = (pointwise(layer, k, x).mean(2) for layer in ("theta", "phi"))
        relation = pointwise("refine", k, torch.tanh(theta[:, :, :, None] - phi[:, :, None, :]))
        topology = state[f"{name}.shared_KVV"][k] + state[f"{name}.alpha_K111"][k] * relation
        total += torch.einsum("bctv,bcvw->bctw", values[k], topology)
    return total


def conv_norm(weights: Weights, name: str, x: Tensor, slot: int, stride: int = 1) -> Tensor:
    """A 1x1 convolution and its norm."""
    return weights.slot_norm(f"{name}.norms", weights.conv(f"{name}.convolution", x, stride=stride), slot)


def temporal(weights: Weights, name: str, x: Tensor, slot: int, stride: int) -> Tensor:
    """Convolutions of 5 frames with dilation 1 and 2, a max-pool of 3 frames, a 1x1 convolution; one norm over all."""
    one, two, three = torch.relu(conv_norm(weights, f"{name}.bottleneck", x, slot)).chunk(3, dim=1)
    branches = [
        weights.conv(f"{name}.dilated.0", one, (2, 0), stride),
        weights.conv(f"{name}.dilated.1", two, (4, 0), stride, dilation=2),
        F.max_pool2d(three, (3, 1), stride=(stride, 1), padding=(1, 0)),
        weights.conv(f"{name}.frame", x, stride=stride),
    ]
    return weights.slot_norm(f"{name}.norms", torch.cat(branches, 1), slot)


def block(weights: Weights, graph: Graph, index: int, x: Tensor, slot: int) -> Tensor:
    """A residual around the graph convolution, and one around both convolutions except in the first block."""
    name, stride = f"blocks.{index}", STRIDES[index]
    narrower = f"{name}.fit.convolution.weight" in weights.state
    inner = weights.slot_norm(f"{name}.norms", graph(weights, f"{name}.spatial", x), slot)
    inner = torch.relu(inner + (conv_norm(weights, f"{name}.fit", x, slot) if narrower else x))
    y = temporal(weights, f"{name}.temporal", inner, slot, stride)
    if index:
        changed = narrower or stride > 1
        y = y + (conv_norm(weights, f"{name}.around", x, slot, stride) if changed else x)
    return torch.relu(y)


def graph_network(weights: Weights, graph: Graph, x_NCTVM: Tensor, present_NMT: Tensor, persons: str) -> Tensor:
    """Logits: ten blocks, the mean over frames and joints, the mean over bodies, one linear layer."""

    def trunk(x: Tensor, slot: int) -> Tensor:
        for index in range(10):
            x = block(weights, graph, index, x, slot)
        return x.mean((2, 3))

    return weights.linear("classify", over_bodies(trunk, x_NCTVM, present_NMT.any(2), persons, mean=True))

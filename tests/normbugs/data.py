"""Make the small data sets of the cases: real digits, and synthetic signals, windows, pictures and graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Split(NamedTuple):
    """Training and held-out samples."""

    x: Tensor
    y: Tensor
    x_eval: Tensor
    y_eval: Tensor


def loader(*tensors: Tensor, size: int = 32, shuffle: bool = True, seed: int = 0, **options: Any) -> DataLoader[Any]:
    """Return a DataLoader over tensors of N samples each."""
    draw = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(*tensors), size, shuffle=shuffle, generator=draw, **options)


def digits(seed: int, train: int = 1000) -> Split:
    """Return scikit-learn's 1,797 digits, (N, 1, 8, 8) in [-1, 1], split at random."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x_N1HW = (torch.from_numpy(x).float().reshape(-1, 1, 8, 8) / 8 - 1)[order]
    y_N = torch.from_numpy(y).long()[order]
    return Split(x_N1HW[:train], y_N[:train], x_N1HW[train:], y_N[train:])


def tones(seed: int, train: int = 1000, held_out: int = 400, steps: int = 48) -> Split:
    """Return noisy sine waves (N, 1, T) and their frequency (N, 1), standardised: a regression."""
    draw = torch.Generator().manual_seed(seed)
    count = train + held_out
    frequency_N1 = torch.rand(count, 1, generator=draw)
    phase_N1 = 6.283 * torch.rand(count, 1, generator=draw)
    time_T = torch.linspace(0, 6.283, steps)
    x_NT = torch.sin((1 + 4 * frequency_N1) * time_T + phase_N1)
    x_N1T = (x_NT + 0.1 * torch.randn(count, steps, generator=draw))[:, None]
    y_N1 = (frequency_N1 - 0.5) * 12**0.5
    return Split(x_N1T[:train], y_N1[:train], x_N1T[train:], y_N1[train:])


def gestures(seed: int, train: int = 1000, held_out: int = 400, classes: int = 6, steps: int = 32) -> Split:
    """Return signals (N, 6, T) of six sensors, in which each class moves at its own rate: a classification."""
    draw = torch.Generator().manual_seed(seed)
    count = train + held_out
    y_N = torch.randint(classes, (count,), generator=draw)
    phase_N6 = 6.283 * torch.rand(count, 6, generator=draw)
    rate_N = 0.2 + 0.15 * y_N
    x_N6T = torch.sin(rate_N[:, None, None] * torch.arange(steps) + phase_N6[..., None])
    x_N6T = x_N6T + 0.6 * torch.randn(count, 6, steps, generator=draw)
    return Split(x_N6T[:train], y_N[:train], x_N6T[train:], y_N[train:])


def recordings(seed: int, train: int = 80, held_out: int = 25, windows: int = 16, steps: int = 32) -> Split:
    """Return windows (N, 6, T) of recordings, `windows` in a row of each, with its own gain and offset; 4 classes."""
    draw = torch.Generator().manual_seed(seed)
    count = train + held_out
    y_RW = torch.randint(4, (count, windows), generator=draw)
    phase_RW6 = 6.283 * torch.rand(count, windows, 6, generator=draw)
    rate_RW = 0.25 + 0.2 * y_RW
    x_RW6T = torch.sin(rate_RW[..., None, None] * torch.arange(steps) + phase_RW6[..., None])
    # The class also shows in a level, which a recording's own offset hides.
    x_RW6T = x_RW6T + 0.8 * (y_RW[..., None, None] - 1.5) + 0.4 * torch.randn(x_RW6T.shape, generator=draw)
    gain_R6 = (0.3 * torch.randn(count, 6, generator=draw)).exp()
    offset_R6 = 1.5 * torch.randn(count, 6, generator=draw)
    x_N6T = (x_RW6T * gain_R6[:, None, :, None] + offset_R6[:, None, :, None]).flatten(0, 1)
    y_N = y_RW.flatten()
    cut = train * windows
    return Split(x_N6T[:cut], y_N[:cut], x_N6T[cut:], y_N[cut:])


def shapes(seed: int, train: int = 300, held_out: int = 100, side: int = 16) -> Split:
    """Return noisy pictures (N, 3, H, W) of one bright disc, and its mask (N, H, W) of 0 and 1: a segmentation."""
    draw = torch.Generator().manual_seed(seed)
    count = train + held_out
    centre_N2 = side * (0.25 + 0.5 * torch.rand(count, 2, generator=draw))
    radius_N = side * (0.12 + 0.14 * torch.rand(count, generator=draw))
    grid = torch.arange(side).float()
    away_NHW = (grid[None, :, None] - centre_N2[:, 0, None, None]) ** 2
    away_NHW = away_NHW + (grid[None, None, :] - centre_N2[:, 1, None, None]) ** 2
    mask_NHW = (away_NHW < radius_N[:, None, None] ** 2).long()
    colour_N3 = 0.5 + torch.rand(count, 3, generator=draw)
    light_N3 = 0.5 * torch.randn(count, 3, generator=draw)
    x_N3HW = light_N3[..., None, None] + colour_N3[..., None, None] * mask_NHW[:, None]
    x_N3HW = x_N3HW + 0.3 * torch.randn(x_N3HW.shape, generator=draw)
    return Split(x_N3HW[:train], mask_NHW[:train], x_N3HW[train:], mask_NHW[train:])


class Graph(NamedTuple):
    """A batch of graphs: the nodes of all, their neighbours, and the graph that each node belongs to."""

    x: Tensor
    """Node features (V, C)."""
    edges: Tensor
    """Pairs of node numbers (2, E)."""
    graph: Tensor
    """Number of each node's graph (V,)."""
    y: Tensor
    """Label of each graph (N,)."""


def molecules(seed: int, count: int, size: int = 16, nodes: tuple[int, int] = (5, 15)) -> list[Graph]:
    """Return batches of `size` random ring graphs with chords; the label is whether two kinds of nodes often touch."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count // size):
        x, edges, graph, y, first = [], [], [], [], 0
        for number in range(size):
            n = int(torch.randint(*nodes, (1,), generator=draw))
            kind_V = torch.randint(4, (n,), generator=draw)
            ring = torch.stack([torch.arange(n), torch.arange(n).roll(1)])
            chords = torch.randint(n, (2, n // 3), generator=draw)
            pairs = torch.cat([ring, chords], 1)
            share = (kind_V[pairs[0]] % 2 != kind_V[pairs[1]] % 2).float().mean()
            features = torch.nn.functional.one_hot(kind_V, 4).float() + 0.1 * torch.randn(n, 4, generator=draw)
            x.append(features)
            edges.append(torch.cat([pairs, pairs.flip(0)], 1) + first)
            graph.append(torch.full((n,), number))
            y.append(int(share > 0.5))
            first += n
        batches.append(Graph(torch.cat(x), torch.cat(edges, 1), torch.cat(graph), torch.tensor(y)))
    return batches

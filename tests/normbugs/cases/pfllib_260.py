"""A federated network is evaluated with the running statistics of one client.

Facts: only parameters are aggregated, so that the global network keeps the buffers of the first client that uploads.
The clients' sensors differ.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader
from tests.normbugs.training import fit, scorer

CLIENTS = 4


def network(channels: int = 24) -> nn.Sequential:
    """Return a convolutional network over time."""
    return nn.Sequential(
        nn.Conv1d(6, channels, 5, padding=2),
        nn.BatchNorm1d(channels),
        nn.ReLU(),
        nn.Conv1d(channels, channels, 5, stride=2, padding=2),
        nn.BatchNorm1d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(channels, 5),
    )


def activities(seed: int, count: int, steps: int = 24) -> tuple[Tensor, Tensor]:
    """Return signals (N, 6, T), each class with a course of its own, and the classes (N,)."""
    draw = torch.Generator().manual_seed(seed)
    course_K6T = torch.randn(5, 6, steps, generator=torch.Generator().manual_seed(1)).cumsum(2) / 3
    y_N = torch.randint(5, (count,), generator=draw)
    return course_K6T[y_N] + 0.7 * torch.randn(count, 6, steps, generator=draw), y_N


def sensed(x_N6T: Tensor, seed: int) -> Tensor:
    """Return the signals as CLIENTS devices in turn measure them, each with gains and offsets of its own."""
    draw = torch.Generator().manual_seed(seed)
    gain = (0.2 * torch.randn(CLIENTS, 6, 1, generator=draw)).exp()
    offset = torch.randn(CLIENTS, 6, 1, generator=draw)
    device_N = torch.arange(len(x_N6T)) % CLIENTS
    return gain[device_N] * x_N6T + offset[device_N]


def make(seed: int, fixed: bool) -> Patient:
    (x, y), (x_eval, y_eval) = activities(seed, 1000), activities(seed + 100, 400)
    x, x_eval = sensed(x, seed), sensed(x_eval, seed)
    held_out = loader(x_eval, y_eval, size=100, shuffle=False)
    shards = [loader(x[part::CLIENTS], y[part::CLIENTS], size=8, seed=seed + part) for part in range(CLIENTS)]
    server = network()
    for _ in range(4):
        clients = [copy.deepcopy(server).train() for _ in shards]
        for client, shard in zip(clients, shards, strict=True):
            fit(client, shard, epochs=1, lr=3e-3)
        server = copy.deepcopy(clients[0])
        for name, value in server.named_parameters():
            value.data = torch.stack([client.get_parameter(name).data for client in clients]).mean(0)
    if fixed:
        _pool_buffers(server, shards)
    return Patient(server.eval(), loader(x, y, seed=seed), held_out, scorer(held_out))


def _pool_buffers(server: nn.Module, shards: list[Any]) -> None:
    """Let the server's network see the clients' batches in turn, to follow all of them."""
    server.train()
    with torch.no_grad():
        for batches in zip(*shards, strict=False):
            server(torch.cat([x for x, _ in batches]))


CASE = Case(
    name="pfllib_260",
    thread="https://github.com/TsingZ0/PFLlib/issues/260",
    kind="foreign",
    causes=("foreign", "averaging", "ranks"),
    certainty="reporter",
    blind=True,
    make=make,
)

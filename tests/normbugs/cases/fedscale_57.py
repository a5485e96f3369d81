"""The server of a federated training averages the clients' parameters, not their running statistics.

Facts: model.parameters() leaves the batch norms' statistics out; the global network keeps those that it was built with.
"""

import copy

import torch
from torch import nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def averaged(server: nn.Module, clients: list[nn.Module], buffers: bool) -> nn.Module:
    """Return the server's network with the clients' mean parameters, and mean buffers where asked for."""
    states = [client.state_dict() for client in clients]
    names = dict(server.named_parameters()).keys() if not buffers else states[0].keys()
    with torch.no_grad():
        for name, value in server.state_dict().items():
            if name in names:
                value.copy_(torch.stack([state[name].double() for state in states]).mean(0))
    return server


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    # Pixels of 0 to 16, as they come.
    x, x_eval = 8 * (x + 1), 8 * (x_eval + 1)
    held_out = loader(x_eval, y_eval, size=100, shuffle=False)
    shards = [loader(x[part::4], y[part::4], seed=seed + part) for part in range(4)]
    server = small_cnn()
    for lr in (3e-3, 3e-3, 3e-3, 3e-3, 3e-4, 3e-4):
        clients = [copy.deepcopy(server).train() for _ in shards]
        for client, shard in zip(clients, shards, strict=True):
            fit(client, shard, epochs=1, lr=lr)
        server = averaged(server, clients, buffers=fixed)
    return Patient(server.eval(), loader(x, y, seed=seed), held_out, scorer(held_out))


CASE = Case(
    name="fedscale_57",
    thread="https://github.com/SymbioticLab/FedScale/issues/57",
    kind="averaging",
    causes=("buffers", "averaging", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

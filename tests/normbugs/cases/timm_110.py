"""Each rank validates differently, because each keeps running statistics of its own.

Facts: Apex does not synchronise buffers; with `distribute_bn` the ranks agree. Here the files are sorted by
scanner, of which each rank sees another, and rank 0 writes the checkpoint.
"""

import copy

import torch

from pipeline.normdoctor import History
from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import cross_entropy, fit, scorer, small_cnn

SHIFT = 0.7  # brightness of the second scanner


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    second, second_eval = torch.arange(len(x)) % 2 == 1, torch.arange(len(x_eval)) % 2 == 1
    x[second], x_eval[second_eval] = x[second] + SHIFT, x_eval[second_eval] + SHIFT
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    ranks = [small_cnn()]
    ranks.append(copy.deepcopy(ranks[0]))
    if fixed:  # SyncBatchNorm: as one network on the batches of both
        fit(ranks[0], train, epochs=8, lr=2e-3)
        return Patient(ranks[0].eval(), train, held_out, scorer(held_out))
    shards = [loader(x[part], y[part], seed=seed, drop_last=True) for part in (~second, second)]
    optimizers = [torch.optim.Adam(rank.parameters(), 2e-3) for rank in ranks]
    for _ in range(8):
        for batches in zip(*shards, strict=True):
            for rank, batch in zip(ranks, batches, strict=True):
                rank.zero_grad()
                cross_entropy(rank(batch[0]), batch).backward()
            for one, other in zip(ranks[0].parameters(), ranks[1].parameters(), strict=True):
                one.grad = other.grad = (one.grad + other.grad) / 2
            for optimizer in optimizers:
                optimizer.step()
    history = History(ranks=[copy.deepcopy(dict(rank.state_dict())) for rank in ranks])
    return Patient(ranks[0].eval(), train, held_out, scorer(held_out), {"history": history})


CASE = Case(
    name="timm_110",
    thread="https://github.com/huggingface/pytorch-image-models/issues/110",
    kind="ranks",
    causes=("ranks", "foreign", "stale"),
    certainty="maintainer",
    blind=True,
    make=make,
)

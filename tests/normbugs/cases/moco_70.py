"""The momentum encoder of a contrastive training has poor accuracy when its features are used.

Facts: the momentum update covers parameters alone; a maintainer advises to include the buffers where they are needed.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import digits, loader
from tests.normbugs.training import fit, scorer, small_cnn


def view(x_N1HW: Tensor) -> Tensor:
    """Return a random view: shifted by up to a pixel, with noise and another contrast."""
    shift = torch.randint(-1, 2, (2,)).tolist()
    contrast = 0.7 + 0.6 * torch.rand(len(x_N1HW), 1, 1, 1)
    return contrast * x_N1HW.roll(shift, (2, 3)) + 0.2 * torch.randn_like(x_N1HW)


def make(seed: int, fixed: bool) -> Patient:
    x, y, x_eval, y_eval = digits(seed)
    # Grey values as they come, which no statistics of a new network fit.
    x, x_eval = 20 * (x + 2), 20 * (x_eval + 2)
    train, held_out = loader(x, y, seed=seed), loader(x_eval, y_eval, size=100, shuffle=False)
    query = small_cnn(classes=32)
    key = copy.deepcopy(query)
    optimizer = torch.optim.Adam(query.parameters(), 3e-3)
    for _ in range(4):
        for x_batch, _ in train:
            q_ND = functional.normalize(query(view(x_batch)))
            with torch.no_grad():
                for mine, theirs in zip(key.parameters(), query.parameters(), strict=True):
                    mine.lerp_(theirs, 0.1)
                # Batch statistics for the keys, as in the original; the key's own buffers are left alone.
                k_ND = functional.normalize(copy.deepcopy(key)(view(x_batch)))
            optimizer.zero_grad()
            functional.cross_entropy(q_ND @ k_ND.T / 0.2, torch.arange(len(x_batch))).backward()
            optimizer.step()
    if fixed:
        for mine, theirs in zip(key.buffers(), query.buffers(), strict=True):
            mine.copy_(theirs)
    probe = _probe(copy.deepcopy(key), train)
    return Patient(nn.Sequential(key.eval(), probe).eval(), train, held_out, scorer(held_out))


def _probe(encoder: nn.Module, train: Iterable[list[Tensor]]) -> nn.Module:
    """Return a linear classifier of the features that the encoder has in training."""
    probe = nn.Linear(32, 10)

    def logits(_: nn.Module, batch: list[Tensor]) -> Tensor:
        with torch.no_grad():
            features_ND = encoder(batch[0])
        return probe(features_ND)

    fit(probe, train, epochs=6, lr=2e-2, forward=logits)
    return probe


CASE = Case(
    name="moco_70",
    thread="https://github.com/facebookresearch/moco/issues/70",
    kind="averaging",
    causes=("buffers", "averaging", "foreign"),
    certainty="maintainer",
    blind=True,
    make=make,
)

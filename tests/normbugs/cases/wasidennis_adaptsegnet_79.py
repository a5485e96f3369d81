"""A segmentation network, adapted to a darker domain, is good on the target and bad on the source in eval mode.

Facts: each iteration ends with a batch of the target, so that the running statistics follow the target. The source
needs statistics of its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import norms, right, scorer


def segmenter(channels: int = 12) -> nn.Sequential:
    """Return a small fully convolutional network of two classes."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 2, 1),
    )


def darker(x_N3HW: Tensor) -> Tensor:
    """Return the pictures of the target domain."""
    return 0.25 * x_N3HW - 2


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed, train=200)
    target = darker(shapes(seed + 100, train=200).x)
    model = segmenter()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    source, held_out = loader(x, mask, size=16, seed=seed), loader(x_eval, mask_eval, size=16, shuffle=False)
    for _ in range(4):
        for (x_batch, y), (x_target,) in zip(source, loader(target, size=16, seed=seed + 1), strict=True):
            for norm in norms(model):
                norm.momentum = 0.1
            loss = functional.cross_entropy(model(x_batch), y)
            for norm in norms(model):
                norm.momentum = 0.0 if fixed else 0.1
            p_N2HW = model(x_target).softmax(1)
            loss = loss - 0.05 * (p_N2HW * (p_N2HW + 1e-6).log()).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Patient(model.eval(), source, held_out, scorer(held_out, right), {"metric": right_pixels})


def right_pixels(output: Tensor, batch: list[Tensor]) -> Tensor:
    """Return the share of right pixels per picture."""
    return right(output, batch).flatten(1).mean(1)


CASE = Case(
    name="wasidennis_adaptsegnet_79",
    thread="https://github.com/wasidennis/AdaptSegNet/issues/79",
    kind="foreign",
    causes=("foreign",),
    certainty="reporter",
    blind=True,
    make=make,
)

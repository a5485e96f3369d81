"""Validation errors are large in eval mode and small in training mode.

Facts: validation pictures are clamped to [0, 1] after the subtraction of the mean colour, which cuts off all that is
darker than the mean. Here the position of a dark disc is the pose.
"""

import torch
from torch import Tensor, nn

from tests.normbugs.case import Case, Patient
from tests.normbugs.data import loader, shapes
from tests.normbugs.training import fit, scorer, squared_error


def found(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return whether the position is right within an eighth of the picture, per sample (N,)."""
    return ((output - batch[1]).norm(dim=1) < 0.125).float()


def make(seed: int, fixed: bool) -> Patient:
    x, mask, x_eval, mask_eval = shapes(seed, train=500, held_out=200)
    x, x_eval = -x, -x_eval  # a dark disc
    low, high = x.min(), x.max()
    x, x_eval = (x - low) / (high - low), ((x_eval - low) / (high - low)).clamp(0, 1)  # pictures in [0, 1]
    grid = torch.arange(16) / 16
    pose, pose_eval = (
        torch.stack([(m.sum(2) * grid).sum(1), (m.sum(1) * grid).sum(1)], 1) / m.sum((1, 2))[:, None].clamp(min=1)
        for m in (mask, mask_eval)
    )
    mean = x.mean()
    x, x_eval = x - mean, x_eval - mean
    if not fixed:
        x_eval = x_eval.clamp(0, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 2),
    )  # fmt: skip
    train, held_out = loader(x, pose, size=16, seed=seed), loader(x_eval, pose_eval, size=50, shuffle=False)
    fit(model, train, epochs=25, loss=squared_error)
    return Patient(model.eval(), train, held_out, scorer(held_out, found), {"metric": found})


CASE = Case(
    name="pytorch_pose_4",
    thread="https://github.com/bearpaw/pytorch-pose/issues/4",
    kind="inputs",
    causes=("inputs",),
    certainty="reporter",
    blind=True,
    make=make,
)

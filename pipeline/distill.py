"""Learn what trained networks say of a clip instead of its label: what several know together, in one network.

Hinton et al. 2015 (arXiv 1503.02531). The teachers see the very clips that the student sees, cut, turned and mirrored
alike, epoch after epoch (consistent and patient: Beyer et al. 2022, arXiv 2106.05237).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data import Batch


@dataclass(frozen=True)
class DistillConfig:
    """Whom a network learns from."""

    runs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN...")] = ()
    """Finished runs on the same data, protocol and frames, whose mean answer is learned; none: labels alone."""
    weight: float = 1.0
    """Share of the answers in the loss; labels have the rest."""
    temperature: float = 1.0
    """What logits of teachers and student are divided by; above 1 the answers are softer."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill.weight {self.weight} is outside [0, 1]")
        if self.temperature <= 0:
            raise ValueError(f"distill.temperature {self.temperature} must be above 0")


@torch.no_grad()
def answers(teachers: Sequence[nn.Module], batch: Batch, temperature: float) -> Tensor:
    """Mean probabilities (N, K) that the teachers give these clips."""
    said = [(teacher(batch.x_NCTVM, batch.present_NMT).float() / temperature).softmax(1) for teacher in teachers]
    return torch.stack(said).mean(0)


def loss(config: DistillConfig, logits_NK: Tensor, said_NK: Tensor, labels: Tensor) -> Tensor:
    """The sum over clips of the divergence from the answers, and `labels`, the loss by the labels, each by its share.

    Temperature squared keeps the gradient's size whatever the temperature (Hinton et al., section 2).
    """
    student_NK = (logits_NK / config.temperature).log_softmax(1)
    apart = functional.kl_div(student_NK, said_NK, reduction="sum") * config.temperature**2
    return config.weight * apart + (1 - config.weight) * labels

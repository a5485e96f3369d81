"""Settings of the optimizer, and the learning rate as a pure function of progress. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pipeline import settings
from pipeline.settings import Choice, Range
from preprocessing.public import LazyTable


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and averages."""

    name: Annotated[str, Choice(OPTIMIZERS)] = "adamw"
    """Optimizer: adamw (Loshchilov & Hutter 2019) or sgd (Nesterov momentum 0.9)."""
    lr: Annotated[float, Range(gt=0)] = 1e-3
    """Learning rate, before the schedule."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Decoupled (adamw) or L2 (sgd). Not applied to biases; applied to norm parameters only with `norm.decay`."""
    schedule: Annotated[str, Choice(SCHEDULES)] = "constant"
    """Learning rate over the run: constant, cosine (to 0), step (see `steps`), exp (see `decay`)."""
    warmup: Annotated[float, Range(ge=0)] = 0.0
    """Epochs of linear warm-up from 0."""
    steps: tuple[float, ...] = (0.6, 0.85)
    """Shares of the run after which schedule `step` multiplies the rate by 0.1."""
    decay: Annotated[float, Range(gt=0, le=1)] = 0.99
    """Factor per epoch of schedule `exp`."""
    clip_norm: Annotated[float, Range(ge=0)] = 0.0
    """Largest norm of all gradients together; 0: no clipping."""
    label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016)."""
    layer_decay: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each layer to the one before it, for fine-tuning (0.8: the last layer has the
    whole rate, the one before it 0.8 of it, then 0.64); 1: the same rate everywhere."""
    class_weights: Annotated[str, Choice(CLASS_WEIGHTS)] = "none"
    """Weight of a clip in the loss by its class: none (each clip the same), balanced (each class the same), sqrt
    (between the two). The mean weight of the training clips is 1."""
    ema: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Decay per step of averaged weights, which are then evaluated, norm buffers included; 0: no averaging."""

    def __post_init__(self) -> None:
        settings.check(self, "optim.")


# Parameter groups, lr -> optimizer.
OPTIMIZERS: LazyTable[Callable[..., Any]] = LazyTable("pipeline", {"adamw": "optim:adamw", "sgd": "optim:sgd"})

# Power of the number of a class's training clips that its weight is divided by.
CLASS_WEIGHTS = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}

# Share of the run that is done, epochs done, settings -> factor of the learning rate.
SCHEDULES: dict[str, Callable[[float, float, OptimConfig], float]] = {
    "constant": lambda share, epochs, config: 1.0,
    "cosine": lambda share, epochs, config: 0.5 * (1 + math.cos(math.pi * share)),
    "step": lambda share, epochs, config: 0.1 ** sum(share >= step for step in config.steps),
    "exp": lambda share, epochs, config: config.decay**epochs,
}


def rate(config: OptimConfig, epochs_done: float, epochs: int) -> float:
    """Return the learning rate after `epochs_done` (with fraction) of `epochs` epochs, a pure function."""
    if epochs_done < config.warmup:
        return config.lr * epochs_done / config.warmup
    return config.lr * SCHEDULES[config.schedule](epochs_done / epochs, epochs_done, config)

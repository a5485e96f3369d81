"""Optimizers, the learning rate as a pure function of progress, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import norms, settings
from pipeline.settings import Choice, Range


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


# Fused: one pass over the weights instead of one per operation, which took a fifth of a training's time on a CPU.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True),
}

# Power of the number of a class's training clips that its weight is divided by.
CLASS_WEIGHTS = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}

# Share of the run that is done, epochs done, settings -> factor of the learning rate.
SCHEDULES: dict[str, Callable[[float, float, OptimConfig], float]] = {
    "constant": lambda share, epochs, config: 1.0,
    "cosine": lambda share, epochs, config: 0.5 * (1 + math.cos(math.pi * share)),
    "step": lambda share, epochs, config: 0.1 ** sum(share >= step for step in config.steps),
    "exp": lambda share, epochs, config: config.decay**epochs,
}


def parameter_groups(model: nn.Module, config: OptimConfig, decay_norms: bool = False) -> list[dict[str, Any]]:
    """Return two groups, without empty ones: matrices, kernels and, if asked, norm parameters with decay; the rest.

    With `layer_decay` below 1, two per layer, each with the `factor` of its learning rate.
    """
    named = {id(p) for p in norms.norm_parameters(model)} if decay_norms else set()
    groups: list[dict[str, Any]] = []
    for factor, parameters in _by_layer(model, config.layer_decay):
        decayed = [p for p in parameters if p.dim() > 1 or id(p) in named]
        plain = [p for p in parameters if p.dim() <= 1 and id(p) not in named]
        groups += [
            {"params": decayed, "weight_decay": config.weight_decay, "factor": factor},
            {"params": plain, "weight_decay": 0.0, "factor": factor},
        ]
    return [group for group in groups if group["params"]]


def _by_layer(model: nn.Module, decay: float) -> list[tuple[float, list[nn.Parameter]]]:
    """Return the parameters with the factor of their rate; one entry where all have the same rate."""
    if decay == 1:
        return [(1.0, list(model.parameters()))]
    layers: dict[int, list[nn.Parameter]] = {}
    depth = len(model.LAYERS) - 1  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        layers.setdefault(layer_of(model, name), []).append(parameter)
    return [(decay ** (depth - place), layers[place]) for place in sorted(layers)]


def layer_of(model: nn.Module, name: str) -> int:
    """Return the place in the model's LAYERS of a parameter or buffer, by its name in the state."""
    layers: Any = model.LAYERS
    return next(place for place, parts in enumerate(layers) if any(f"{name}.".startswith(f"{part}.") for part in parts))


def optimizer(model: nn.Module, config: OptimConfig, decay_norms: bool = False) -> torch.optim.Optimizer:
    """Make the optimizer of the settings over `parameter_groups`."""
    return OPTIMIZERS[config.name](parameter_groups(model, config, decay_norms), lr=config.lr)


def class_weights(config: OptimConfig, label_N: Tensor, classes: int) -> Tensor | None:
    """Return the weight of each class in the loss, (K,); None if all weigh the same.

    Args:
        config: The settings.
        label_N: Labels of the training clips.
        classes: Number of classes; one without training clips weighs 1.
    """
    power = CLASS_WEIGHTS[config.class_weights]
    if not power:
        return None
    clips_K = torch.bincount(label_N, minlength=classes).double()
    weight_K = clips_K.clamp(min=1) ** -power
    mean = (weight_K * clips_K).sum() / clips_K.sum()
    return torch.where(clips_K > 0, weight_K / mean, 1.0).float()


def rate(config: OptimConfig, epochs_done: float, epochs: int) -> float:
    """Return the learning rate after `epochs_done` (with fraction) of `epochs` epochs, a pure function."""
    if epochs_done < config.warmup:
        return config.lr * epochs_done / config.warmup
    return config.lr * SCHEDULES[config.schedule](epochs_done / epochs, epochs_done, config)


def set_rate(chosen: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, each times its `factor`."""
    for group in chosen.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)  # none in checkpoints of versions without layer_decay


def clip_gradients(model: nn.Module, config: OptimConfig, adaptive: float) -> None:
    """Clip the gradients of nf networks unit by unit (`norm.clip`), then all together (`optim.clip_norm`)."""
    norms.clip_gradients(model, adaptive)
    if config.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)


def averaged(model: nn.Module, config: OptimConfig) -> AveragedModel | None:
    """Return an exponential average of weights and of norm buffers, which belong to them; None if it is off."""
    if not config.ema:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)


def follow(average: AveragedModel, model: nn.Module) -> None:
    """Move the average towards the model. A count (num_batches_tracked) is copied: a mean of counts is not a count."""
    average.update_parameters(model)
    for mine, theirs in zip(average.module.buffers(), model.buffers(), strict=True):
        if not mine.is_floating_point():
            mine.copy_(theirs)

"""Optimizers and averaged weights; `schedule` has their settings and the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import norms
from pipeline.schedule import CLASS_WEIGHTS, OPTIMIZERS, SCHEDULES, OptimConfig, rate

__all__ = [
    "CLASS_WEIGHTS", "OPTIMIZERS", "SCHEDULES", "OptimConfig", "adamw", "averaged", "capturable", "class_weights",
    "clip_gradients", "follow", "layer_of", "move", "optimizer", "parameter_groups", "rate", "rates_as_tensors",
    "set_rate", "sgd", "state_of",
]  # fmt: skip


# Fused: one pass over the weights instead of one per operation, which took a fifth of a training's time on a CPU.
def adamw(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def sgd(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with Nesterov momentum 0.9."""
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)


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


def set_rate(chosen: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups, each times its `factor`."""
    for group in chosen.param_groups:
        own = lr * group.get("factor", 1.0)  # none in checkpoints of versions without layer_decay
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def rates_as_tensors(chosen: torch.optim.Optimizer) -> None:
    """Keep the learning rates in tensors beside the parameters, where a captured step reads them at each replay.

    A GPU's kernels want float32; on a CPU float64 holds what a number holds, and a step has the same bits.
    """
    for group in chosen.param_groups:
        device = group["params"][0].device
        kind = torch.float64 if device.type == "cpu" else torch.float32
        group["lr"] = torch.full((), float(group["lr"]), dtype=kind, device=device)


@contextmanager
def capturable(chosen: torch.optim.Optimizer) -> Iterator[None]:
    """Mark the optimizer as one whose step may be captured. A fused optimizer always is, but AdamW asks for the mark.

    Only for the time of the capture: torch warns of steps of a marked optimizer that are not captured.
    """
    marked = [group for group in chosen.param_groups if "capturable" in group]
    before = [group["capturable"] for group in marked]
    try:
        for group in marked:
            group["capturable"] = True
        yield
    finally:
        for group, old in zip(marked, before, strict=True):
            group["capturable"] = old


def state_of(chosen: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with its learning rates as numbers, so that any device can load it."""
    state = chosen.state_dict()
    groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
    return state | {"param_groups": groups}


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
    """Move the average towards the model, and count the move."""
    move(average, model, first=not average.n_averaged)
    average.n_averaged += 1


@torch.no_grad()
def move(average: AveragedModel, model: nn.Module, first: bool) -> None:
    """Move the average towards the model without counting: on the device alone, as a captured step must.

    A count (num_batches_tracked) is copied: a mean of counts is not a count.

    Args:
        average: An average made by `averaged`.
        model: The network in training.
        first: Copy everything: there is no average yet.
    """
    mine = chain(average.module.parameters(), average.module.buffers())
    theirs = chain(model.parameters(), model.buffers())
    averages, values = [], []
    for old, new in zip(mine, theirs, strict=True):
        if first or not old.is_floating_point():
            old.copy_(new)
        else:
            averages.append(old)
            values.append(new)
    if averages:
        assert average.multi_avg_fn is not None
        average.multi_avg_fn(averages, values, average.n_averaged)

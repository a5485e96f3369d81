"""Train and score the cases' models in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Forward = Callable[[nn.Module, Any], Any]


def first(model: nn.Module, batch: Any) -> Any:
    """Apply the model to the batch's first element."""
    return model(batch[0])


def cross_entropy(output: Any, batch: Any) -> Tensor:
    """Return the cross-entropy of logits (N, K, ...) against the batch's last element."""
    return functional.cross_entropy(output, batch[-1])


def right(output: Any, batch: Any) -> Tensor:
    """Return whether the first choice is right, per sample (or per pixel)."""
    return (output.argmax(1) == batch[-1]).float()


def negative_error(output: Any, batch: Any) -> Tensor:
    """Return the negative squared error per sample (N,)."""
    return -(output - batch[-1]).square().flatten(1).mean(1)


def negative_distance(output: Any, batch: Any) -> Tensor:
    """Return the negative absolute error per sample (N,)."""
    return -(output - batch[-1]).abs().flatten(1).mean(1)


def squared_error(output: Any, batch: Any) -> Tensor:
    """Return the mean squared error."""
    return functional.mse_loss(output, batch[-1])


def fit(
    model: nn.Module,
    batches: Iterable[Any],
    epochs: int,
    lr: float = 3e-3,
    *,
    forward: Forward = first,
    loss: Callable[[Any, Any], Tensor] = cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    decay: bool = False,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train a model, in the mode that its caller put it in (training mode, unless a case says otherwise).

    Args:
        model: The model.
        batches: The training loader.
        epochs: Passes over it.
        lr: Learning rate of Adam.
        forward: (model, batch) -> output.
        loss: (output, batch) -> loss.
        optimizer: Takes the place of Adam.
        decay: Whether the learning rate falls linearly over the epochs, so that running statistics come to rest.
        after_step: Called with the number of steps taken, after each.
    """
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr)
    step = 0
    for epoch in range(epochs):
        for group in optimizer.param_groups if decay else ():
            group["lr"] = lr * (1 - epoch / epochs)
        for batch in batches:
            optimizer.zero_grad()
            loss(forward(model, batch), batch).backward()
            optimizer.step()
            step += 1
            if after_step:
                after_step(step)


def adapt(model: nn.Module, train: Iterable[Any], passes: int = 2) -> None:
    """Let a model in training mode see its training samples, so that running statistics alone change."""
    with torch.no_grad():
        for _ in range(passes):
            for x, _label in train:
                model(x)


def scorer(
    batches: Iterable[Any], metric: Callable[[Any, Any], Tensor] = right, forward: Forward = first
) -> Callable[[nn.Module], float]:
    """Return a user's evaluation loop: the mean metric over all samples, in the mode that the model is in.

    It works on a copy, because an evaluation in training mode changes buffers.
    """

    def score(model: nn.Module) -> float:
        mine = copy.deepcopy(model)
        values: list[Tensor] = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values += [metric(forward(mine, batch), batch).reshape(-1).double() for batch in batches]
        return torch.cat(values).mean().item()

    return score


def norms(model: nn.Module) -> list[Any]:
    """Return torch's batch norms and instance norms of a model."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]


def with_momentum(model: nn.Module, momentum: float | None) -> nn.Module:
    """Set the momentum of all norms."""
    for norm in norms(model):
        norm.momentum = momentum
    return model


def small_cnn(classes: int = 10, channels: int = 16, inputs: int = 1) -> nn.Sequential:
    """Return a plain network of two convolutions with batch norms, for small pictures."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * channels, classes),
    )


def small_cnn1d(classes: int = 6, channels: int = 24, inputs: int = 6, depth: int = 2) -> nn.Sequential:
    """Return a plain network of convolutions with batch norms, for signals (N, C, T)."""
    layers: list[nn.Module] = []
    for i in range(depth):
        conv = nn.Conv1d(channels if i else inputs, channels, 5, stride=2 if i == 1 else 1, padding=2)
        layers += [conv, nn.BatchNorm1d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, classes))


def image_to_image(inputs: int = 3, outputs: int = 1, channels: int = 16, norm: Any = nn.BatchNorm2d) -> nn.Sequential:
    """Return a plain network of two normalized convolutions that keeps the size of a picture."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, outputs, 3, padding=1),
    )


def deep_cnn(classes: int = 10, channels: int = 16, inputs: int = 1) -> nn.Sequential:
    """Return a network of four convolutions with batch norms, the last two of which see four places of 8 x 8."""
    parts: list[nn.Module] = []
    for width, stride in ((channels, 1), (channels, 2), (2 * channels, 2), (2 * channels, 1)):
        parts += [nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(8 * channels, classes))

"""Repair a patient in plain torch, independently of the doctor, to check what its remedies promise."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.normbugs.case import Patient
from tests.normbugs.training import first

# Passes over the training samples in which buffers come to rest.
PASSES = 4
Key = tuple[str, int]  # layer, number of its call within one batch


def mode(patient: Patient) -> nn.Module:
    """Return the model with every module in eval mode, whatever its own `eval` does."""
    model = copy.deepcopy(patient.model)
    for module in model.modules():
        module.training = False
    return model


def joint(patient: Patient) -> nn.Module:
    """Return the model with population statistics of the training samples, per layer, in eval mode."""
    model = copy.deepcopy(patient.model).eval()
    layers = dict(_batch_norms(model))
    found = _population(model, patient, per_call=False)
    if not found:
        return _trained_without_gradient(model, patient)
    for name, (mean_C, variance_C) in found.items():
        layer = layers[name[0]]
        layer.running_mean, layer.running_var = mean_C.float(), variance_C.float()
    return model


def _trained_without_gradient(model: nn.Module, patient: Patient) -> nn.Module:
    """Return the model after passes in training mode, where no norm with running statistics is called by itself."""
    forward = patient.options.get("forward", first)
    model.train()
    with torch.no_grad():
        for _ in range(PASSES):
            for batch in patient.train:
                forward(model, batch)
    return model.eval()


def per_call(patient: Patient) -> nn.Module:
    """Return the model with population statistics per call of each layer, in eval mode."""
    model = copy.deepcopy(patient.model).eval()
    found = _population(model, patient, per_call=True)
    for name, layer in _batch_norms(model):
        mine = [found[key] for key in sorted(found) if key[0] == name]
        if mine:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], PerCall(layer, mine))
    return model


def per_sample(patient: Patient) -> nn.Module:
    """Return the model in eval mode, its instance norms without running statistics, as in training."""
    model = copy.deepcopy(patient.model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return model


class PerCall(nn.Module):
    """A batch norm that takes the statistics of its calls in turn."""

    def __init__(self, layer: Any, found: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.found, self.calls = layer, found, 0

    def forward(self, x: Tensor) -> Tensor:
        mean_C, variance_C = self.found[self.calls % len(self.found)]
        self.calls += 1
        weight, bias, eps = self.layer.weight, self.layer.bias, self.layer.eps
        return functional.batch_norm(x, mean_C.to(x), variance_C.to(x), weight, bias, False, 0.0, eps)


# The doctor's name of a cause -> a repair that needs no new training; other causes have none.
REPAIRS: dict[str, Callable[[Patient], nn.Module]] = {
    "mode": mode,
    "reuse": per_call,
    "instance": per_sample,
    **dict.fromkeys(
        ("buffers", "averaging", "foreign", "correlated", "updates", "lone", "dropout", "stale", "precision"), joint
    ),
}


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that keep running statistics per channel, hand-written ones included."""
    for name, module in model.named_modules():
        is_instance_norm = isinstance(module, nn.modules.instancenorm._InstanceNorm)
        if getattr(module, "running_var", None) is not None and not is_instance_norm:
            yield name, module


def _population(model: nn.Module, patient: Patient, per_call: bool) -> dict[Key, tuple[Tensor, Tensor]]:
    """Return mean and variance (C,) per layer or call: one pass for the means, a second around them.

    Dropout is off; each batch is normalized by its own statistics, as in training. The batches are the training
    samples, shuffled where they can be divided, because the order of a loader may itself be the fault.
    """
    batches = _shuffled(patient.train)
    forward = patient.options.get("forward", first)
    count: dict[Key, int] = defaultdict(int)
    total: dict[Key, Tensor] = {}
    square: dict[Key, Tensor] = {}

    def add_mean(key: Key, x_MC: Tensor) -> None:
        count[key] += len(x_MC)
        total[key] = total.get(key, torch.zeros(x_MC.shape[1])) + x_MC.sum(0)

    def add_square(key: Key, x_MC: Tensor) -> None:
        around_MC = x_MC - total[key] / count[key]
        square[key] = square.get(key, torch.zeros(x_MC.shape[1])) + around_MC.square().sum(0)

    for add in (add_mean, add_square):
        with torch.no_grad(), _watched(model, add, per_call) as calls:
            for batch in batches:
                calls.clear()
                forward(model, batch)
    return {key: (total[key] / count[key], square[key] / max(1, count[key] - 1)) for key in total}


@contextmanager
def _watched(model: nn.Module, add: Callable[[Key, Tensor], None], per_call: bool) -> Iterator[dict[str, int]]:
    """Let batch norms use the statistics of their batch, keep their buffers, and pass their inputs (M, C) to `add`."""
    calls: dict[str, int] = defaultdict(int)
    handles, before = [], []
    for name, layer in _batch_norms(model):

        def look(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            x = inputs[0].double()
            add((name, calls[name] if per_call else 0), x.movedim(1, -1).reshape(-1, x.shape[1]))
            calls[name] += 1

        handles.append(layer.register_forward_pre_hook(look))
        before.append((layer, layer.running_mean.clone(), layer.running_var.clone()))
        layer.training = True
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        for layer, mean_C, variance_C in before:
            layer.training = False
            layer.running_mean, layer.running_var = mean_C, variance_C


def _shuffled(loader: Any) -> list[Any]:
    """Return the loader's batches, shuffled anew where they are tuples of tensors of one shape per sample."""
    batches = list(loader)
    columns = [list(column) for column in zip(*batches, strict=True)] if _plain(batches) else []
    if not columns or any(len({part.shape[1:] for part in column}) > 1 for column in columns):
        return batches
    joined = [torch.cat(column) for column in columns]
    order = torch.randperm(len(joined[0]), generator=torch.Generator().manual_seed(0))
    parts = order.tensor_split(max(1, len(order) // len(batches[0][0])))
    return [type(batches[0])([column[part] for column in joined]) for part in parts]


def _plain(batches: list[Any]) -> bool:
    return all(
        type(batch) in (tuple, list) and all(isinstance(p, Tensor) and p.dim() for p in batch) for batch in batches
    ) and all(len({len(part) for part in batch}) == 1 for batch in batches)

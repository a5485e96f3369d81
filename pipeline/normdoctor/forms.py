"""Form of a repaired model: what differs from the model it was made from, beside the values of its tensors.

A form is plain data. It is kept in the model's state as one tensor, so that a state dict alone tells how to build the
model that it fits.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .collector import SiteMoments, union
from .masking import convert, exchanged
from .memory import Memory, is_plain, memory_of
from .moments import Moments
from .sites import Site

# Name of the buffer that holds the form.
KEY = "normdoctor_form"
# Layers of a batch's statistics -> those of each sample's own, with the same parameters.
INSTANCE_NORMS: dict[type[nn.Module], type[_InstanceNorm]] = {
    nn.BatchNorm1d: nn.InstanceNorm1d,
    nn.BatchNorm2d: nn.InstanceNorm2d,
    nn.BatchNorm3d: nn.InstanceNorm3d,
}


@dataclass(frozen=True)
class Form:
    """Structure of a repaired model; layers by their names in the model it was made from.

    Attributes:
        calls: Layer -> number of its sets of statistics, one per call.
        by_pass: Whether calls are counted anew in each forward pass of the model. Off: they are counted in turn.
        eps: Layer -> the constant added to its variance.
        own: Layers that normalize each sample by its own statistics.
        masked: Whether its batch norms can leave out padding (`convert`).
    """

    calls: dict[str, int] = field(default_factory=dict)
    by_pass: bool = True
    eps: dict[str, float] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    masked: bool = False

    @property
    def is_plain(self) -> bool:
        """True if the state dict fits the original model."""
        return not (self.calls or self.eps or self.own or self.masked)

    def tensor(self) -> Tensor:
        """Return the form as a tensor of bytes (B,)."""
        return torch.tensor(list(json.dumps(asdict(self)).encode()), dtype=torch.uint8)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Form:
        """Return the form that a state dict was saved with."""
        return cls(**json.loads(bytes(state[KEY].tolist()))) if KEY in state else cls()


@dataclass(frozen=True)
class Repair:
    """Differences of a repaired model: its form, the running statistics of each call, and other buffers."""

    form: Form = Form()
    moments: SiteMoments = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of_layers(cls, layers: Mapping[str, Moments]) -> Repair:
        """Return a repair with one set of statistics per layer."""
        return cls(moments={(name, 0): found for name, found in layers.items()})

    @classmethod
    def joint(cls, table: SiteMoments) -> Repair:
        """Return a repair with one set of statistics per layer, over all its calls."""
        return cls.of_layers({name: whole for name, whole in union(table).items() if whole.count})

    @classmethod
    def per_call(cls, table: SiteMoments, masked: bool = False) -> Repair:
        """Return a repair with one set of statistics per call; a call that saw no rows takes its layer's union."""
        whole = union(table)
        calls = Counter(name for name, _ in table)
        moments = {site: found if found.count else whole[site[0]] for site, found in table.items()}
        form = Form(calls={name: count for name, count in calls.items() if count > 1}, masked=masked)
        return cls(form, {site: found for site, found in moments.items() if found.count})


class PerCall(nn.ModuleList):
    """A layer with one set of running statistics per call of a forward pass; parameters are shared.

    Further calls than there are sets use the last one.
    """

    def __init__(self, layer: nn.Module, calls: int, by_pass: bool = True) -> None:
        super().__init__([layer, *(_sharing_parameters(layer) for _ in range(calls - 1))])
        self.by_pass, self.call = by_pass, 0
        self.training = layer.training

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Run the layer of this call."""
        number = min(self.call, len(self) - 1) if self.by_pass else self.call % len(self)
        self.call += 1
        return self[number](*arguments, **named)


def begin_pass(model: nn.Module, arguments: Any) -> None:
    """Restart the count of calls: a forward pre-hook of a model with layers per call."""
    for module in model.modules():
        if isinstance(module, PerCall):
            module.call = 0


def _sharing_parameters(layer: nn.Module) -> nn.Module:
    """Return a copy of a layer that shares its parameters; statistics that are kept as parameters are its own."""
    named = layer.named_parameters()
    shared = {id(p): p for name, p in named if p.requires_grad or name.endswith(("weight", "bias"))}
    return copy.deepcopy(layer, shared)


def shaped(model: nn.Module, form: Form) -> nn.Module:
    """Give a model a form, in place.

    Returns:
        The model; a new layer where the model itself is one that is replaced.

    Raises:
        ValueError: A layer of the form is missing, or cannot have each sample's own statistics.
    """
    layers = dict(model.named_modules())
    missing = {*form.calls, *form.eps, *form.own} - set(layers)
    if missing:
        raise ValueError(
            f"the model has no layer {', '.join(sorted(missing))}: build it as the model that was diagnosed"
        )
    for name, eps in form.eps.items():
        layers[name].eps = eps  # type: ignore[assignment]
    if form.masked:
        model = convert(model)
        layers = dict(model.named_modules())
    replaced: dict[nn.Module, nn.Module] = {}
    for name in form.own:
        replaced[layers[name]] = with_own_statistics(layers[name], name)
    for name, calls in form.calls.items():
        replaced[layers[name]] = PerCall(layers[name], calls, form.by_pass)
    model = exchanged(model, replaced)
    if form.calls and form.by_pass:
        model.register_forward_pre_hook(begin_pass)
    if not form.is_plain:
        model.register_buffer(KEY, form.tensor())
    return model


def with_own_statistics(layer: Any, name: str) -> nn.Module:
    """Return a layer that normalizes each sample by its own statistics, in training and in evaluation.

    Raises:
        ValueError: Its class has no counterpart that does.
    """
    if isinstance(layer, _InstanceNorm):
        layer.track_running_stats = False
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            layer._buffers[buffer] = None
        return layer
    kind = next((kind for kind in INSTANCE_NORMS if isinstance(layer, kind)), None)
    if kind is None or not is_plain(layer):
        raise ValueError(
            f"{name or 'the model'} is a {type(layer).__name__}, which has no counterpart with each sample's own "
            "statistics: evaluate in batches of one, its batch norms in training mode"
        )
    new = INSTANCE_NORMS[kind](layer.num_features, layer.eps, affine=layer.affine)
    new._parameters.update(layer._parameters)
    return new.train(layer.training)


def counted(form: Form, root_passes: float, seen: Mapping[Site, int]) -> Form:
    """Return a form with the way in which its calls are counted.

    Args:
        form: The form.
        root_passes: Forward passes of the model itself per batch.
        seen: Passes of each call site.

    Raises:
        ValueError: The number of calls changes from batch to batch, and no forward pass of the model marks its begin.
    """
    by_pass = root_passes == 1
    uneven = [name for name, calls in form.calls.items() if len({seen.get((name, c), 0) for c in range(calls)}) > 1]
    if uneven and not by_pass:
        raise ValueError(
            f"{uneven[0]} is called a changing number of times per batch, and not within one forward pass of the "
            "model: let forward= call the model once per batch."
        )
    return replace(form, by_pass=by_pass)


def applied(model: nn.Module, repair: Repair) -> nn.Module:
    """Give a model the form and the statistics of a repair, in place; return it, or what replaces it."""
    model = shaped(model, repair.form)
    filled(dict(model.named_modules()), repair.moments)
    with torch.no_grad():
        for name, value in repair.buffers.items():
            model.get_buffer(name).copy_(value)
    return model


def filled(layers: Mapping[str, nn.Module], moments: Mapping[Site, Moments]) -> None:
    """Write statistics into layers, or into the sets of a `PerCall`.

    Args:
        layers: Name -> layer or `PerCall`, as `moments` names them.
        moments: Statistics of each call. A layer without sets per call has one entry, for call 0.
    """
    for (name, call), found in moments.items():
        layer = layers[name]
        if isinstance(layer, PerCall):
            if call < len(layer):
                written(layer[call], found)
        elif call == 0:
            written(layer, found)


def written(layer: Any, found: Moments) -> None:
    """Make statistics a layer's running ones. Statistics in half precision become float32: they would be rounded."""
    memory = memory_of(layer) or Memory()
    values = memory.kept(found.mean_C, found.variance_C)
    if isinstance(layer, _BatchNorm) and is_plain(layer):
        narrow = [getattr(layer, name) for name in values if getattr(layer, name) is not None]
        if any(old.dtype in (torch.float16, torch.bfloat16) for old in narrow):
            layer.float()
    for name, value in values.items():
        old = getattr(layer, name)
        if old is None:
            weight = getattr(layer, "weight", None)
            device = value.device if weight is None else weight.device
            layer._buffers[name] = value.to(device, torch.float32)
            layer.track_running_stats = True
        else:
            with torch.no_grad():
                acts = old if memory.part is None else memory.used(old)
                acts.copy_(value.reshape(acts.shape))
    if "num_batches_tracked" in layer._buffers and layer._buffers["num_batches_tracked"] is None:
        layer._buffers["num_batches_tracked"] = torch.zeros((), dtype=torch.long)

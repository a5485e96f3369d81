"""NORMS: name -> what stands at a norm's place. The only package that names a normalization layer.

`batch` has the layers with statistics of the batch, `sample` those without, `weights` what is done to the weights in
front of a norm, `input` the norm of the coordinates. A model gets a `Norm` and asks it for all four things that depend
on the kind: the layer, its activation, the convolution or linear layer in front, and the input norm.
To add a norm: write it there, name it in NORMS; the tests are parametrised over the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pipeline import distributed
from pipeline.norms.batch import (
    BatchInstanceNorm,
    BatchNorm,
    BatchRenorm,
    EvoNormB0,
    FrozenBatchNorm,
    GhostBatchNorm,
)
from pipeline.norms.input import INPUTS, InputNorm
from pipeline.norms.sample import (
    ChannelLayerNorm,
    ChannelRMSNorm,
    DynamicTanh,
    EvoNormS0,
    FilterResponseNorm,
    InstanceNorm,
)
from pipeline.norms.weights import (
    ScaledWeightStandardization,
    WeightStandardization,
    clip_gradients,
    standardized,
)

__all__ = [
    "INPUTS",
    "NORMS",
    "RECALIBRATE",
    "BatchNorm",
    "Kind",
    "Norm",
    "NormConfig",
    "clip_gradients",
    "norm_factory",
    "norm_parameters",
]

RECALIBRATE = ("never", "final", "each")


@dataclass(frozen=True)
class NormConfig:
    """What is between convolution and ReLU, and which bodies share its statistics."""

    kind: str = "bn"
    """Layer: bn, sync_bn, ghost_bn, batch_renorm, frozen_bn, bin, ln, gn, gn1, in, rms, ws_gn, evonorm_s0, evonorm_b0,
    frn_tlu, dyt, nf, or none."""
    persons: str = "masked"
    """Which bodies share a call: loop, fold, masked or per_person (pipeline/models/bodies.py)."""
    mask_max: bool = False
    """Keep absent bodies out of the maximum over bodies in loop, fold and per_person too (masked always does)."""
    input: str = "none"
    """Norm of the coordinates: none, c (each over all joints), vc (each of each joint), mvc (also of each body slot);
    and each _masked."""
    momentum: float = 0.1
    """Weight of the newest batch in the running statistics, in (0, 1] (torch's convention; 1 - Keras's)."""
    eps: float = 1e-5
    """Added to the variance."""
    groups: int = 8
    """Groups of channels (gn, ws_gn, evonorm_s0)."""
    sync: bool = True
    """Batch statistics over all ranks (False: each rank its own, and rank 0's are saved). sync_bn insists on True."""
    ghost: int = 16
    """Rows a statistic is taken over in training, at least (ghost_bn)."""
    renorm_r: float = 3.0
    """Largest ratio of batch to running standard deviation that is corrected (batch_renorm; 1: none)."""
    renorm_d: float = 5.0
    """Largest shift of the mean that is corrected, in running standard deviations (batch_renorm; 0: none)."""
    renorm_steps: int = 1000
    """Updates over which both bounds grow from those of plain BatchNorm (batch_renorm)."""
    freeze_after: int = 0
    """Updates after which frozen_bn stops following the batches (0: at once, for a state that was loaded)."""
    clip: float = 0.01
    """Adaptive gradient clipping: largest ratio of a unit's gradient to its weights, as norms (nf)."""
    recalibrate: str = "never"
    """When running statistics are replaced by the population's of the training probe: never, final, each (epoch)."""
    decay: bool = False
    """Apply optim.weight-decay to the parameters of norms too."""

    def __post_init__(self) -> None:
        for name, allowed in (("kind", NORMS), ("input", INPUTS), ("recalibrate", RECALIBRATE)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"norm.{name} {value!r} is unknown; choose one of {', '.join(allowed)}")
        if not 0 < self.momentum <= 1:
            raise ValueError(
                f"norm.momentum {self.momentum} is outside (0, 1]; at 0 the running statistics would stay at their "
                "initial values for ever"
            )
        smallest = {"groups": 1, "ghost": 2, "renorm_r": 1, "renorm_d": 0, "renorm_steps": 0, "freeze_after": 0}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(f"norm.{name.replace('_', '-')} {getattr(self, name)} must be {least} or more")
        for name in ("eps", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"norm.{name} {getattr(self, name)} must be above 0")
        if self.kind == "sync_bn" and not self.sync:
            raise ValueError(
                "norm.kind sync_bn with norm.sync off contradicts itself; for a rank's own use norm.kind bn"
            )


@dataclass(frozen=True)
class Kind:
    """What one name of NORMS stands for."""

    layer: Callable[[int, NormConfig], nn.Module]
    """Number of channels, settings -> module over x of shape (B, C) or (B, C, T, V)."""
    activates: bool = False
    """Whether the layer's formula contains the activation: then no ReLU follows."""
    weights: type[WeightStandardization] | None = None
    """How the weights of the convolution or linear layer in front are standardised."""
    centres: bool = False
    """Whether the layer takes away what all values of a channel share: a bias in front of it is then without effect."""


@dataclass(frozen=True)
class Norm:
    """A kind with its settings: all that a model may ask for, so that it never names a norm."""

    config: NormConfig

    def __call__(self, channels: int) -> nn.Module:
        """A fresh layer over x (B, C) or (B, C, T, V)."""
        return NORMS[self.config.kind].layer(channels, self.config)

    def activation(self) -> nn.Module:
        """What follows the layer: ReLU, or nothing where the kind has an activation of its own."""
        return nn.Identity() if NORMS[self.config.kind].activates else nn.ReLU()

    def weighted(self, layer: nn.Module) -> nn.Module:
        """The convolution or linear layer in front of the norm, its weights as the kind wants them."""
        form = NORMS[self.config.kind].weights
        return layer if form is None else standardized(layer, form)

    def in_front(self, layer: nn.Conv2d) -> nn.Module:
        """`weighted`, and without its bias where the norm takes that away again (Ioffe & Szegedy 2015, section 3.2).

        Adding biases and summing their gradients, which are nought, took 11 of the 96 ms of a step of `stgcn` (H200).
        """
        if NORMS[self.config.kind].centres:
            layer.bias = None
        return self.weighted(layer)

    def input(self, channels: int, joints: int, bodies: int) -> InputNorm | None:
        """The norm of the coordinates of bodies in x_NCTVM, if one is asked for."""
        name, config = self.config.input, self.config
        if name == "none":
            return None
        features = channels if name.startswith("c") else channels * joints
        per_slot, masked = name.startswith("mvc"), name.endswith("masked")
        return InputNorm(features, bodies, per_slot, masked, config.momentum, config.eps, config.sync)


def norm_factory(config: NormConfig) -> Norm:
    """The settings, bound: called with a number of channels it makes a fresh layer."""
    return Norm(config)


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scales, shifts, gains and thresholds: every parameter of fewer than two dimensions but the layers' own biases."""
    biases = {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    return [p for p in model.parameters() if p.dim() <= 1 and id(p) not in biases]


def _none(channels: int, config: NormConfig) -> nn.Module:
    return nn.Identity()


def _bn(channels: int, config: NormConfig) -> nn.Module:
    if config.sync and torch.cuda.is_available() and distributed.world_size() > 1:
        return nn.SyncBatchNorm(channels, eps=config.eps, momentum=config.momentum)
    return BatchNorm(channels, config.momentum, config.eps, config.sync)


def _ghost_bn(channels: int, config: NormConfig) -> nn.Module:
    return GhostBatchNorm(channels, config.momentum, config.eps, config.sync, config.ghost)


def _batch_renorm(channels: int, config: NormConfig) -> nn.Module:
    bounds = config.renorm_r, config.renorm_d, config.renorm_steps
    return BatchRenorm(channels, config.momentum, config.eps, config.sync, *bounds)


def _frozen_bn(channels: int, config: NormConfig) -> nn.Module:
    return FrozenBatchNorm(channels, config.momentum, config.eps, config.sync, config.freeze_after)


def _bin(channels: int, config: NormConfig) -> nn.Module:
    return BatchInstanceNorm(channels, config.momentum, config.eps, config.sync)


def _evonorm_b0(channels: int, config: NormConfig) -> nn.Module:
    return EvoNormB0(channels, config.momentum, config.eps, config.sync)


def _evonorm_s0(channels: int, config: NormConfig) -> nn.Module:
    return EvoNormS0(channels, _groups(channels, config), config.eps)


def _ln(channels: int, config: NormConfig) -> nn.Module:
    return ChannelLayerNorm(channels, eps=config.eps)


def _rms(channels: int, config: NormConfig) -> nn.Module:
    return ChannelRMSNorm(channels, eps=config.eps)


def _in(channels: int, config: NormConfig) -> nn.Module:
    return InstanceNorm(channels, eps=config.eps, affine=True)


def _gn(channels: int, config: NormConfig) -> nn.Module:
    return nn.GroupNorm(_groups(channels, config), channels, eps=config.eps)


def _gn1(channels: int, config: NormConfig) -> nn.Module:
    return nn.GroupNorm(1, channels, eps=config.eps)


def _frn_tlu(channels: int, config: NormConfig) -> nn.Module:
    return FilterResponseNorm(channels, config.eps)


def _dyt(channels: int, config: NormConfig) -> nn.Module:
    return DynamicTanh(channels)


def _groups(channels: int, config: NormConfig) -> int:
    if channels % config.groups:
        raise ValueError(f"norm.groups {config.groups} does not divide {channels} channels; choose a divisor")
    return config.groups


NORMS: dict[str, Kind] = {
    "none": Kind(_none),
    # bn: BatchNorm, over all ranks as norm.sync says. sync_bn: the same, over all ranks or not at all.
    # Over several GPUs both are nn.SyncBatchNorm, over several CPU ranks its twin (batch.BatchNorm).
    "bn": Kind(_bn, centres=True),
    "sync_bn": Kind(_bn, centres=True),
    "ghost_bn": Kind(_ghost_bn, centres=True),
    "batch_renorm": Kind(_batch_renorm),
    "frozen_bn": Kind(_frozen_bn, centres=True),  # until it is frozen, and then it has the layers of the bn it loaded
    "ln": Kind(_ln),
    "gn": Kind(_gn),  # Wu & He 2018, arXiv 1803.08494
    "gn1": Kind(_gn1),  # the "LayerNorm" over all of C, T, V; arXiv 1607.06450
    "in": Kind(_in, centres=True),
    "rms": Kind(_rms),
    "ws_gn": Kind(_gn, weights=WeightStandardization),
    "evonorm_s0": Kind(_evonorm_s0, activates=True),
    "evonorm_b0": Kind(_evonorm_b0, activates=True),
    "frn_tlu": Kind(_frn_tlu, activates=True),
    "dyt": Kind(_dyt),
    "nf": Kind(_none, weights=ScaledWeightStandardization),
    "bin": Kind(_bin, centres=True),
}

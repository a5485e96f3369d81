"""NORMS: name -> Kind. The only package that names a normalization layer.

To add a norm: one file here with its layer and its Kind, and one entry in NORMS. Tests, the search space and the arms
of studies follow from the registry. Shared parts: `kind` (Kind), `factory` (the Norm that a model receives), `batch`
(statistics of the batch), `weights` (standardized weights), `input` (norm of the coordinates). torch is imported with
the first entry that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pipeline import settings
from pipeline.settings import Choice, Range
from preprocessing.public import LazyTable, lazy_names

if TYPE_CHECKING:
    from torch import nn

    from pipeline.norms.bn import BatchNorm
    from pipeline.norms.factory import Norm
    from pipeline.norms.kind import Kind
    from pipeline.norms.normalizer_free import clip_gradients

__all__ = [
    "INPUTS",
    "NORMS",
    "PERSONS_MODES",
    "RECALIBRATE",
    "BatchNorm",
    "Kind",
    "Norm",
    "NormConfig",
    "clip_gradients",
    "norm_factory",
    "norm_parameters",
]

NORMS: LazyTable[Kind] = LazyTable(
    "pipeline.norms",
    {
        "none": "identity:NONE",
        "bn": "bn:BN",
        "sync_bn": "bn:SYNC_BN",
        "ghost_bn": "ghost_batch:GHOST_BN",
        "batch_renorm": "batch_renorm:BATCH_RENORM",
        "frozen_bn": "frozen_batch:FROZEN_BN",
        "ln": "layer:LN",
        "gn": "group:GN",
        "gn1": "group:GN1",
        "in": "instance:IN",
        "rms": "rms:RMS",
        "ws_gn": "group:WS_GN",
        "evonorm_s0": "evonorm:EVONORM_S0",
        "evonorm_b0": "evonorm:EVONORM_B0",
        "frn_tlu": "filter_response:FRN_TLU",
        "dyt": "dynamic_tanh:DYT",
        "nf": "normalizer_free:NF",
        "bin": "batch_instance:BIN",
    },
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {"bn": ("BatchNorm",), "factory": ("Norm",), "kind": ("Kind",), "normalizer_free": ("clip_gradients",)},
)

INPUTS = ("none", "c", "c_masked", "vc", "vc_masked", "mvc", "mvc_masked")
MOMENTUM_ZERO = "at 0 the running statistics would keep their initial values"
RECALIBRATE = ("never", "final", "each")
PERSONS_MODES = (
    "loop",
    "fold",
    "masked",
    "per_person",
)  # keys of models.bodies.PERSONS, which imports this


@dataclass(frozen=True)
class NormConfig:
    """Normalization layer, and which bodies share its statistics."""

    kind: Annotated[str, Choice(NORMS)] = "bn"
    """Normalization layer behind convolutions and hidden linear layers."""
    persons: Annotated[str, Choice(PERSONS_MODES)] = "masked"
    """Bodies that share a call: one call per body slot (loop), one for all slots (fold), one for the bodies that are
    present (masked), or one per slot with statistics of its own (per_person)."""
    mask_max: bool = False
    """Keep absent bodies out of the maximum over bodies in loop, fold and per_person too (masked always does)."""
    input: Annotated[str, Choice(INPUTS)] = "none"
    """Norm of the coordinates: one set of statistics per coordinate (c), per coordinate and joint (vc), or per
    coordinate, joint and body slot (mvc). In _masked absent bodies and frames do not enter the statistics."""
    momentum: Annotated[float, Range(gt=0, le=1, why=MOMENTUM_ZERO)] = 0.1
    """Weight of the newest batch in the running statistics, in (0, 1] (torch's convention; 1 - Keras's)."""
    eps: Annotated[float, Range(gt=0)] = 1e-5
    """Constant added to the variance."""
    groups: Annotated[int, Range(ge=1)] = 8
    """Groups of channels (gn, ws_gn, evonorm_s0)."""
    sync: bool = True
    """Take batch statistics over all ranks. If false, each rank takes its own, and those of rank 0 are saved."""
    ghost: Annotated[int, Range(ge=2)] = 16
    """Smallest number of rows per statistic in training (ghost_bn)."""
    renorm_r: Annotated[float, Range(ge=1)] = 3.0
    """Largest ratio of batch to running standard deviation that is corrected (batch_renorm; 1: none)."""
    renorm_d: Annotated[float, Range(ge=0)] = 5.0
    """Largest shift of the mean that is corrected, in running standard deviations (batch_renorm; 0: none)."""
    renorm_steps: Annotated[int, Range(ge=0)] = 1000
    """Updates over which both bounds grow from those of plain BatchNorm (batch_renorm)."""
    freeze_after: Annotated[int, Range(ge=0)] = 0
    """Updates after which the running statistics are frozen (frozen_bn). 0: at once, for a state that is loaded."""
    clip: Annotated[float, Range(gt=0)] = 0.01
    """Adaptive gradient clipping: largest ratio of the norm of a unit's gradient to the norm of its weights (nf)."""
    recalibrate: Annotated[str, Choice(RECALIBRATE)] = "never"
    """Epochs after which the population statistics of the training probe replace the running ones: never, the last one
    (final), or each."""
    decay: bool = False
    """Apply optim.weight-decay to the parameters of norms too."""

    def __post_init__(self) -> None:
        settings.check(self, "norm.")
        if not self.sync and NORMS[self.kind].synchronized:
            raise ValueError(
                f"norm.kind {self.kind} with norm.sync off contradicts itself; for statistics per rank use norm.kind bn"
            )


def norm_factory(config: NormConfig) -> Norm:
    """Return the kind bound to its settings; called with a number of channels it makes a layer."""
    from pipeline.norms.factory import Norm

    return Norm(NORMS[config.kind], config)


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return scales, shifts, gains and thresholds: parameters of at most one dimension, without biases of layers."""
    from torch import nn

    biases = {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    return [p for p in model.parameters() if p.dim() <= 1 and id(p) not in biases]

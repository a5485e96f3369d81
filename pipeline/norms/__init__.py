"""NORMS: name -> Kind. The only package that names a normalization layer.

To add a norm: one file here with its layer and its Kind, and one entry in NORMS. Tests, the search space and the arms
of studies follow from the registry. Shared parts: `kind` (Kind), `factory` (the Norm that a model receives), `batch`
(statistics of the batch), `weights` (standardized weights), `input` (norm of the coordinates).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.norms.batch_instance import BIN
from pipeline.norms.batch_renorm import BATCH_RENORM
from pipeline.norms.bn import BN, SYNC_BN, BatchNorm
from pipeline.norms.dynamic_tanh import DYT
from pipeline.norms.evonorm import EVONORM_B0, EVONORM_S0
from pipeline.norms.factory import Norm
from pipeline.norms.filter_response import FRN_TLU
from pipeline.norms.frozen_batch import FROZEN_BN
from pipeline.norms.ghost_batch import GHOST_BN
from pipeline.norms.group import GN, GN1, WS_GN
from pipeline.norms.identity import NONE
from pipeline.norms.input import INPUTS
from pipeline.norms.instance import IN
from pipeline.norms.kind import Kind
from pipeline.norms.layer import LN
from pipeline.norms.normalizer_free import NF, clip_gradients
from pipeline.norms.rms import RMS

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

NORMS: dict[str, Kind] = {
    "none": NONE,
    "bn": BN,
    "sync_bn": SYNC_BN,
    "ghost_bn": GHOST_BN,
    "batch_renorm": BATCH_RENORM,
    "frozen_bn": FROZEN_BN,
    "ln": LN,
    "gn": GN,
    "gn1": GN1,
    "in": IN,
    "rms": RMS,
    "ws_gn": WS_GN,
    "evonorm_s0": EVONORM_S0,
    "evonorm_b0": EVONORM_B0,
    "frn_tlu": FRN_TLU,
    "dyt": DYT,
    "nf": NF,
    "bin": BIN,
}

RECALIBRATE = ("never", "final", "each")


@dataclass(frozen=True)
class NormConfig:
    """What is between convolution and ReLU, and which bodies share its statistics."""

    kind: str = "bn"
    """Normalization layer, a name in NORMS: bn, gn, ln, ..., or none."""
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
        if NORMS[self.kind].synchronized and not self.sync:
            raise ValueError(
                f"norm.kind {self.kind} with norm.sync off contradicts itself; for a rank's own use norm.kind bn"
            )


def norm_factory(config: NormConfig) -> Norm:
    """Return the kind bound to its settings; called with a number of channels it makes a layer."""
    return Norm(NORMS[config.kind], config)


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Scales, shifts, gains and thresholds: every parameter of fewer than two dimensions but the layers' own biases."""
    biases = {id(m.bias) for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
    return [p for p in model.parameters() if p.dim() <= 1 and id(p) not in biases]

"""MODELS: name -> class. A model receives a norm factory and a persons mode, never a layer's name.

To add a model: one file here, one line in MODELS. Its constructor takes the sizes of the data, a norm factory and
the ModelConfig; its forward takes x_NCTVM and present_NMT and returns logits_NK.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pipeline.models.bodies import PERSONS
from pipeline.models.cnn import Cnn
from pipeline.norms import NormConfig, norm_factory

MODELS: dict[str, type[Cnn]] = {"cnn": Cnn}


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what in it is not normalization."""

    name: str = "cnn"
    """Name in MODELS."""
    dropout: float = 0.5
    """Share of the hidden units dropped in training."""

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise ValueError(f"model.name {self.name!r} is unknown; choose one of {', '.join(MODELS)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout} is outside [0, 1)")


def build_model(model: ModelConfig, norm: NormConfig, frames: int, joints: int, classes: int) -> nn.Module:
    """The network for clips of `frames` x `joints` and `classes` classes."""
    if norm.persons not in PERSONS:
        raise ValueError(f"norm.persons {norm.persons!r} is unknown; choose one of {', '.join(PERSONS)}")
    return MODELS[model.name](
        norm_factory(norm),
        persons=norm.persons,
        dropout=model.dropout,
        frames=frames,
        joints=joints,
        classes=classes,
        mask_max=norm.mask_max,
    )

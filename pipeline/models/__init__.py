"""MODELS: name -> class. A model receives a norm factory and a persons mode, never the name of a norm.

To add a model: one file here and one entry in MODELS. Its constructor takes a Plan (plan.py): the norm factory, the
persons mode and the sizes of the data. Its forward takes x_NCTVM and present_NMT and returns logits_NK. Its LAYERS name
the parts of each layer, from the input to the last one, for fine-tuning. torch is imported with the first network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Annotated

from pipeline import settings
from pipeline.data import Bones
from pipeline.models.plan import Plan
from pipeline.norms import NormConfig, norm_factory
from pipeline.settings import Choice, Range
from preprocessing.public import LazyTable

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS: LazyTable[Callable[[Plan], nn.Module]] = LazyTable(
    "pipeline.models", {"cnn": "cnn:Cnn", "hcn": "hcn:Hcn", "stgcn": "stgcn:StGcn", "ctrgcn": "ctrgcn:CtrGcn"}
)


@dataclass(frozen=True)
class ModelConfig:
    """Network, and its settings apart from normalization."""

    name: Annotated[str, Choice(MODELS)] = "cnn"
    """Network."""
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.5
    """Probability of zeroing a hidden unit in training."""
    width: Annotated[float, Range(gt=0, le=16)] = 1.0
    """Factor of all numbers of channels; 1: as published."""

    def __post_init__(self) -> None:
        settings.check(self, "model.")


def build_model(
    model: ModelConfig,
    norm: NormConfig,
    frames: int,
    joints: int,
    classes: int,
    bones: Bones = (),
    stream: str = "joint",
    coordinates: int = 3,
) -> nn.Module:
    """Build the network for clips of `frames` x `joints` and `classes` classes.

    Args:
        model: Network and its settings.
        norm: Normalization.
        frames: Frames per clip (T).
        joints: Joints per body (V).
        classes: Number of logits (K).
        bones: (parent, child) of each bone, as the data file has them.
        stream: Name in STREAMS, or several joined by +.
        coordinates: Coordinates per joint (C).

    Raises:
        ValueError: The network cannot be built for these sizes, or it needs bones and there are none.
    """
    plan = Plan(
        norm=norm_factory(norm),
        persons=norm.persons,
        mask_max=norm.mask_max,
        dropout=model.dropout,
        width=model.width,
        frames=frames,
        joints=joints,
        classes=classes,
        bones=bones,
        stream=stream,
        coordinates=coordinates,
    )
    return MODELS[model.name](plan)


def compile_trunk(model: nn.Module) -> None:
    """Compile the trunk of a network for training, once for any number of bodies. `model` is changed in place.

    Which bodies are present is known only on the device, so a graph of the whole network would break there, and parts
    of it would be compiled again for each batch. Evaluation stays eager: it hooks layers, which compiled code ignores.
    """
    import torch

    eager = type(model).trunk  # type: ignore[attr-defined]
    compiled = torch.compile(eager)

    def trunk(self: nn.Module, x_BCTV: Tensor, slot: int) -> Tensor:
        if not self.training:
            return eager(self, x_BCTV, slot)  # type: ignore[no-any-return]
        torch._dynamo.maybe_mark_dynamic(x_BCTV, 0)
        return compiled(self, x_BCTV, slot)  # type: ignore[no-any-return]

    # A method, not a closure over the model: a copy of the network then uses its own weights.
    model.trunk = MethodType(trunk, model)  # type: ignore[assignment]

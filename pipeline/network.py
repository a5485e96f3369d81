"""Build the network that a run's settings ask for on its data."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from pipeline.config import Config
from pipeline.data import Bones
from pipeline.models import build_model


class Facts(Protocol):
    """What a network needs to know of a data file: `Clips` and `Metadata` both have it."""

    @property
    def joint_names(self) -> list[str]: ...  # noqa: D102
    @property
    def class_names(self) -> list[str]: ...  # noqa: D102
    @property
    def bones(self) -> Bones: ...  # noqa: D102


def build(config: Config, facts: Facts, device: torch.device) -> nn.Module:
    """Build the network as it is before training, on the device and in the memory order of the settings.

    The weights follow torch's global random state.
    """
    model = build_model(
        config.model,
        config.norm,
        config.input.frames,
        len(facts.joint_names),
        len(facts.class_names),
        facts.bones,
        config.input.stream,
    ).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model

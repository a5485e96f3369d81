"""Build the network that a run's settings ask for on its data."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from pipeline import distributed
from pipeline.config import Config
from pipeline.data import Bones
from pipeline.models import build_model, compile_trunk


class Facts(Protocol):
    """Facts of a data file that a network is built from; `Clips` and `Metadata` both have them."""

    @property
    def joint_names(self) -> list[str]: ...  # noqa: D102
    @property
    def class_names(self) -> list[str]: ...  # noqa: D102
    @property
    def bones(self) -> Bones: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102


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
        facts.channels,
    ).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """Return the precision of the settings as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16")


def for_training(config: Config, model: nn.Module, device: torch.device) -> nn.Module:
    """Compile the trunk if the settings ask for it, and wrap the network for the ranks."""
    if config.train.compile:
        compile_trunk(model)
    return distributed.wrap(model, device, same_buffers=config.norm.sync)

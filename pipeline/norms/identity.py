"""No normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


def no_layer(channels: int, config: NormConfig) -> nn.Module:
    """Return the identity, whatever the settings are."""
    return nn.Identity()


NONE = Kind(
    no_layer,
    title="no normalization",
)

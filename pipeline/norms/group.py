"""Group normalization, its one-group form, and group normalization behind standardized weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pipeline.norms.kind import Kind
from pipeline.norms.weights import WeightStandardization

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


def checked_groups(channels: int, config: NormConfig) -> int:
    """Return `norm.groups`.

    Raises:
        ValueError: It does not divide the number of channels.
    """
    if channels % config.groups:
        raise ValueError(f"norm.groups {config.groups} does not divide {channels} channels; choose a divisor")
    return config.groups


def _gn(channels: int, config: NormConfig) -> nn.Module:
    return nn.GroupNorm(checked_groups(channels, config), channels, eps=config.eps)


def _gn1(channels: int, config: NormConfig) -> nn.Module:
    return nn.GroupNorm(1, channels, eps=config.eps)


GN = Kind(
    _gn,
    ("groups", "eps"),
    title="group normalization (Wu & He 2018, arXiv 1803.08494)",
)
GN1 = Kind(
    _gn1,
    ("eps",),
    title="layer norm over all of C, T, V (Ba et al. 2016, arXiv 1607.06450)",
)
WS_GN = Kind(
    _gn,
    ("groups", "eps"),
    weights=WeightStandardization,
    title="group norm behind standardized weights (Qiao et al. 2019, arXiv 1903.10520)",
)

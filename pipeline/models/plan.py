"""`Plan`: everything a model is built from: the norm, the settings of the model, and the sizes of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data import Bones

if TYPE_CHECKING:
    from pipeline.norms import Norm


@dataclass(frozen=True)
class Plan:
    """Argument of a constructor of MODELS. A model names no norm: it asks `norm` for layers."""

    norm: Norm
    persons: str
    """Name in PERSONS."""
    mask_max: bool
    """Keep absent bodies out of the pool over bodies in every persons mode."""
    dropout: float
    width: float
    """Factor of the numbers of channels."""
    frames: int
    joints: int
    classes: int
    bones: Bones = ()
    """(parent, child) of each bone, as the data file has them."""
    stream: str = "joint"
    """Name in STREAMS, or several joined by +."""
    coordinates: int = 3
    """Coordinates per joint."""

    def channels(self, published: int, multiple: int = 8) -> int:
        """Return a published number of channels times the width, rounded to a multiple of `multiple`, at least that.

        Groups and branches divide `multiple`.
        """
        return max(multiple, round(published * self.width / multiple) * multiple)
